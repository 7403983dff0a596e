//! Reads what people configure: flags and environment variables, durations, distributions, URLs,
//! secrets, `.env` files and CSV cells. Also writes counts for people.
//! It opens no socket.

pub mod address;
pub mod cells;
pub mod distribution;
pub mod dotenv;
pub mod duration;
pub mod flags;
pub mod plural;
pub mod secret;
pub mod stated;
pub mod value;
