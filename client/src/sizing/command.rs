//! The subcommand: checks the options, reads the results, and renders the guide.

pub(crate) use super::options::Destination;

use super::options::Checked;
use crate::cli::SizingArgs;
use measure::sizing::make::guide;
use report::sizing;

/// Makes a guide. `headroom` is the value of `--headroom` as a share. Returns the text and where it goes.
///
/// # Errors
/// The options are wrong, a file is not a result, or the points give no guide.
pub(crate) fn sizing(
    args: &SizingArgs,
    headroom: Result<f64, String>,
) -> Result<(String, Destination), String> {
    let checked = Checked::new(args, headroom).map_err(|errors| errors.to_string())?;
    let mut found = sizing::read(&args.paths).map_err(|error| error.to_string())?;
    let destination = checked.destination.clone();
    let options = checked.with(&found);
    let guide = guide(std::mem::take(&mut found.points), options).map_err(|error| error.to_string())?;
    let text = match destination {
        Destination::Stdout | Destination::File(_) => sizing::markdown(&guide),
        Destination::JsonStdout | Destination::JsonFile(_) => sizing::json(&guide),
    };
    if let Destination::File(path) | Destination::JsonFile(path) = &destination {
        sizing::write(path, &text).map_err(|error| error.to_string())?;
    }
    Ok((text, destination))
}
