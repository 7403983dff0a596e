//! The wire contract of Streamstress: positions, events, names, token claims, close codes, the client's ledger and the gateway's lane.
//!
//! All of it is pure values and functions. The crate does no I/O, reads no clock and knows no async runtime.

mod api;
mod claims;
mod close;
mod digest;
mod event;
mod lane;
mod ledger;
mod position;
mod session;

pub use api::{CloseResponse, CreateResponse, ErrorBody, RunRequest, RunResponse};
pub use claims::{
    Claims, Grant, LEEWAY_SECONDS, MAX_TOKEN_BYTES, Secret, SecretError, Signer, TokenError, Verifier,
};
pub use close::{ClientAction, CloseReason};
pub use digest::{Digest, DigestField, Digester};
pub use event::{
    BOOT_ID_HEADER, Event, Frame, GatewayStamps, Kind, MAX_HOPS, MalformedFrame, Prefix, RolledTokens,
    StampedToken, TokenPieces, Tokens, encode_closed, encode_done, encode_error, encode_fence, encode_gap,
    encode_gap_entry, encode_resumed, encode_token, encode_verified_done, encode_verified_error, is_sampled,
    with_position,
};
pub use lane::{GapPolicy, Lane, LiveAction, LoggedAction, ReadEnd, ReadStart};
pub use ledger::{EventCounts, ExpectedRange, Ledger, MissingRange, Observation};
pub use position::{ParsePositionError, Position};
pub use session::{Names, ParsePathError, ParseSessionIdError, SessionId, parse_ws_path};
