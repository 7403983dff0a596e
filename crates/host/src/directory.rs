//! Directories that hold what only their user may see or change.

use nix::unistd::getuid;
use std::{fs, io, os::unix::fs::MetadataExt, path::Path};

/// Returns whether a path is a directory of this user that nobody else may enter. A link to one is none.
///
/// # Errors
/// The path cannot be examined, for example because nothing is there.
pub fn is_private(directory: &Path) -> io::Result<bool> {
    let metadata = fs::symlink_metadata(directory)?;
    let is_of_user = metadata.uid() == getuid().as_raw();
    Ok(metadata.is_dir() && is_of_user && metadata.mode() & 0o077 == 0)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::fs::{PermissionsExt, symlink};

    #[test]
    fn others_may_not_enter_and_links_do_not_count() {
        let parent = tempfile::tempdir().unwrap();
        let (directory, link) = (parent.path().join("own"), parent.path().join("link"));
        assert_eq!(is_private(&directory).unwrap_err().kind(), io::ErrorKind::NotFound);
        fs::create_dir(&directory).unwrap();
        for (mode, expected) in [(0o700, true), (0o710, false), (0o701, false), (0o755, false)] {
            fs::set_permissions(&directory, fs::Permissions::from_mode(mode)).unwrap();
            assert_eq!(is_private(&directory).unwrap(), expected, "{mode:o}");
        }
        fs::set_permissions(&directory, fs::Permissions::from_mode(0o700)).unwrap();
        symlink(&directory, &link).unwrap();
        assert!(!is_private(&link).unwrap());
        fs::write(parent.path().join("file"), "").unwrap();
        assert!(!is_private(&parent.path().join("file")).unwrap());
    }
}
