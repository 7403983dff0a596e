//! The gateway over real sockets, on the memory bus: what a client sees, whatever it does.

mod admission;
mod closes;
mod drains;
mod inbound;
mod rig;
mod slow;
mod streams;
mod takeovers;
