//! Writes what a server sends.
