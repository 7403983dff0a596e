//! The program `streamstress`: reads command line and configuration, and connects plan, load, measurement and report.

mod amend;
mod capacity;
pub mod cli;
pub mod config;
mod connect;
mod embedded;
mod endpoints;
pub mod engine;
mod environment;
mod generator;
mod generators;
mod lead;
mod observer;
mod outline;
mod preflight;
pub mod program;
pub mod run_error;
pub mod scenario;
pub mod signals;
mod sizing;
mod stack_faults;
mod stack_members;
mod sweep;
mod target_files;
mod web;
