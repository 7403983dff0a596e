//! `streamstress sizing`: makes a guide to the size of a stack from the results of earlier runs.

mod command;
mod options;

pub(crate) use command::{Destination, sizing};
