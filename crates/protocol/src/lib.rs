//! The wire contract of Streamstress: positions, events, names, claims, close codes, continuity.
//! Pure values and functions; it opens no socket, knows no async runtime and holds no state of a process.

mod api;
mod claims;
mod close;
mod continuity;
mod digest;
mod event;
mod lane;
mod position;
mod session;

pub use api::{CloseResponse, CreateResponse, ErrorBody, RunRequest, RunResponse};
pub use claims::{
    Claims, Grant, LEEWAY_SECONDS, MAX_TOKEN_BYTES, Secret, SecretError, Signer, TokenError, Verifier,
};
pub use close::{ClientAction, CloseReason};
pub use continuity::{Hole, Ledger, Observation, Owed, Tally};
pub use digest::{Attested, Digest, Digester};
pub use event::{
    Event, Frame, Kind, MalformedFrame, Prefix, encode_closed, encode_done, encode_error, encode_fence,
    encode_gap, encode_gap_entry, encode_resumed, encode_token, encode_verified_done, encode_verified_error,
    with_position,
};
pub use lane::{Gaps, Lane, LogEnd, Logged, Mark, Step};
pub use position::{ParsePositionError, Position};
pub use session::{Names, ParsePathError, ParseSessionIdError, SessionId, parse_ws_path};
