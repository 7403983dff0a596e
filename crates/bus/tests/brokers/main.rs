//! The brokers of the bus: their common contract, and what only a real Redis can do.

mod contract;
mod data_loss;
mod redis_only;
mod refusals;
mod support;
mod unusable_keys;
