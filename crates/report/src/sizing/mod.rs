//! `streamstress sizing`: reads the results of runs as points for [`measure::sizing`], and renders the guide as Markdown or JSON.

mod conditions;
mod evidence;
mod figures;
mod files;
mod found;
mod layout;
mod markdown;
mod points;
mod resources;

pub use files::read;
pub use found::Found;
pub use markdown::markdown;

use crate::{file_error::FileError, values::escaped_json};
use measure::sizing::guide::Guide;
use serde::Serialize;
use std::{fs, path::Path};

/// Version of the JSON text.
const SCHEMA_VERSION: u32 = 1;

/// Returns the guide as JSON, with names and units as in [`Guide`].
#[must_use]
pub fn json(guide: &Guide) -> String {
    #[derive(Serialize)]
    struct Versioned<'a> {
        schema_version: u32,
        version: &'static str,
        #[serde(flatten)]
        guide: &'a Guide,
    }
    let versioned = Versioned { schema_version: SCHEMA_VERSION, version: env!("CARGO_PKG_VERSION"), guide };
    escaped_json(&serde_json::to_string_pretty(&versioned).unwrap_or_default()) + "\n"
}

/// Writes a guide.
///
/// # Errors
/// The file cannot be written.
pub fn write(path: &Path, text: &str) -> Result<(), FileError> {
    fs::write(path, text).map_err(|error| FileError::unwritable(path, &error))
}

#[cfg(test)]
mod tests;
