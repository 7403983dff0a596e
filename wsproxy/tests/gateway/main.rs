//! Tests of the gateway over real sockets with the memory bus.

mod admission;
mod closes;
mod drains;
mod inbound;
mod rig;
mod slow;
mod streams;
mod takeovers;
