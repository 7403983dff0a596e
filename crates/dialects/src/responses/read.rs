//! Reads what a server sends.
