//! Reads what people configure: durations, URLs, secrets, `.env` files and CSV cells.
//! Nothing here reads the environment or opens a socket.

pub mod address;
pub mod cells;
pub mod dotenv;
pub mod duration;
pub mod secret;
