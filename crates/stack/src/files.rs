//! Directories and files of the stack on a host with other users. A path is used only if no other user can change where it leads:
//! each of its components is checked, and no file is opened through a symbolic link.

use anyhow::{Context, bail};
use nix::libc;
use std::{
    fs::{self, DirBuilder, File, Metadata},
    io::{self, ErrorKind, Write as _},
    os::unix::fs::{DirBuilderExt as _, MetadataExt as _, OpenOptionsExt as _},
    path::{Path, PathBuf},
};

/// In a directory with this bit, only the owner of an entry can remove or rename it.
const STICKY: u32 = 0o1000;
const WRITABLE_BY_OTHERS: u32 = 0o022;

/// Creates a directory that only this user can enter, and the missing directories above it. Checks directories that exist.
///
/// # Errors
/// The directory cannot be created, or another user could replace it or write into it: it or a directory above it is a symbolic link,
/// belongs to another user, or is writable by others.
pub fn private_directory(path: &Path) -> anyhow::Result<()> {
    let context = || format!("cannot create the directory {}", path.display());
    let path = std::path::absolute(path).with_context(context)?;
    let own_uid = nix::unistd::geteuid().as_raw();
    let mut checked = PathBuf::new();
    // From the root on: no other user can replace a component that was checked, so the next check sees what is used later.
    for component in path.components() {
        checked.push(component);
        let found = match fs::symlink_metadata(&checked) {
            Err(error) if error.kind() == ErrorKind::NotFound => create(&checked),
            found => found,
        }
        .with_context(context)?;
        if let Some(problem) = problem(&Ownership::of(&found), own_uid, checked == path) {
            bail!("{} {problem}", checked.display());
        }
    }
    Ok(())
}

/// Creates one directory, unless another process has just created it. The caller checks it in both cases.
fn create(path: &Path) -> io::Result<Metadata> {
    match DirBuilder::new().mode(0o700).create(path) {
        Err(error) if error.kind() != ErrorKind::AlreadyExists => Err(error),
        _ => fs::symlink_metadata(path),
    }
}

/// The properties of a path component that decide whether it is safe.
struct Ownership {
    is_link: bool,
    is_directory: bool,
    owner: u32,
    mode: u32,
}

impl Ownership {
    fn of(metadata: &Metadata) -> Self {
        Self {
            is_link: metadata.is_symlink(),
            is_directory: metadata.is_dir(),
            owner: metadata.uid(),
            mode: metadata.mode(),
        }
    }
}

/// Returns why a path component is not safe for the user `own_uid`. `last` marks the directory itself, which must belong to that
/// user; directories above it may belong to root.
fn problem(ownership: &Ownership, own_uid: u32, last: bool) -> Option<String> {
    let Ownership { is_link, is_directory, owner, mode } = *ownership;
    let writable = mode & WRITABLE_BY_OTHERS != 0 && (last || mode & STICKY == 0);
    if is_link {
        Some("is a symbolic link, which could change: choose a --state-dir without one".into())
    } else if !is_directory {
        Some("is not a directory: choose another --state-dir".into())
    } else if owner != own_uid && (last || owner != 0) {
        Some(format!("belongs to user {owner}, not to user {own_uid}: choose another --state-dir"))
    } else if writable {
        let mode = mode & 0o7777;
        Some(format!(
            "is writable by other users (mode {mode:o}): run `chmod go-w` on it, or choose another --state-dir"
        ))
    } else {
        None
    }
}

/// Opens a log for appending, and creates it if it is missing.
///
/// # Errors
/// The path is a symbolic link, or the system cannot open the file.
pub fn open_log(path: &Path) -> io::Result<File> {
    File::options().create(true).append(true).mode(0o600).custom_flags(libc::O_NOFOLLOW).open(path)
}

/// Opens a lock file, and creates it if it is missing. Fails for a symbolic link.
pub(crate) fn open_lock(path: &Path) -> io::Result<File> {
    let mut options = File::options();
    options.create(true).truncate(false).read(true).write(true);
    options.mode(0o600).custom_flags(libc::O_NOFOLLOW).open(path)
}

/// Replaces the file at `path` by a new one with this text. A symbolic link there is replaced, not followed.
pub(crate) fn replace(path: &Path, text: &str) -> anyhow::Result<()> {
    let write = || {
        let new = path.with_extension("new");
        match fs::remove_file(&new) {
            Err(error) if error.kind() != ErrorKind::NotFound => return Err(error),
            _ => {}
        }
        // `create_new` is O_EXCL, which follows no link.
        let mut file = File::options().create_new(true).write(true).mode(0o600).open(&new)?;
        file.write_all(text.as_bytes())?;
        fs::rename(&new, path)
    };
    write().with_context(|| format!("cannot write {}", path.display()))
}

/// Returns whether requests from and to processes of the user `uid` are allowed: it is this process's user or root.
pub(crate) fn is_trusted(uid: u32) -> bool {
    uid == 0 || uid == nix::unistd::geteuid().as_raw()
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::fs::{PermissionsExt as _, symlink};

    const OWN_UID: u32 = 1000;

    fn problem_of(owner: u32, mode: u32, last: bool) -> Option<String> {
        problem(&Ownership { is_link: false, is_directory: true, owner, mode }, OWN_UID, last)
    }

    #[test]
    fn owner_and_mode_of_a_component_are_checked() {
        for (owner, mode) in [(0, 0o755), (0, 0o1777), (OWN_UID, 0o700), (OWN_UID, 0o755), (OWN_UID, 0o1777)]
        {
            assert_eq!(problem_of(owner, mode, false), None, "{owner} {mode:o}");
        }
        for (owner, mode, expected) in [
            (1001, 0o755, "belongs to user 1001"),
            (1001, 0o1777, "belongs to user 1001"),
            (0, 0o777, "mode 777"),
            (OWN_UID, 0o775, "mode 775"),
            (OWN_UID, 0o702, "mode 702"),
        ] {
            assert!(problem_of(owner, mode, false).unwrap().contains(expected), "{owner} {mode:o}");
        }
        assert_eq!(problem_of(OWN_UID, 0o700, true), None);
        for (owner, mode) in [(0, 0o700), (1001, 0o700), (OWN_UID, 0o1777), (OWN_UID, 0o770)] {
            assert!(problem_of(owner, mode, true).is_some(), "{owner} {mode:o}");
        }
    }

    fn refused(path: &Path) -> String {
        format!("{:#}", private_directory(path).unwrap_err())
    }

    #[test]
    fn every_component_is_checked_and_nothing_is_created_below_an_unsafe_one() {
        let directory = tempfile::tempdir().unwrap();
        let root = directory.path();
        private_directory(&root.join("a/b/c")).unwrap();
        private_directory(&root.join("a/b/c")).unwrap();
        for made in ["a", "a/b", "a/b/c"] {
            assert_eq!(fs::metadata(root.join(made)).unwrap().mode() & 0o777, 0o700, "{made}");
        }
        symlink(root.join("a"), root.join("link")).unwrap();
        for path in ["link", "link/b", "link/b/c", "link/new"] {
            let error = refused(&root.join(path));
            assert!(error.contains("link is a symbolic link") && error.contains("--state-dir"), "{error}");
        }
        assert!(!root.join("a/new").exists());
        symlink("/nowhere", root.join("dangling")).unwrap();
        assert!(refused(&root.join("dangling")).contains("symbolic link"));
        fs::write(root.join("file"), "").unwrap();
        assert!(refused(&root.join("file/x")).contains("not a directory"));
        fs::set_permissions(root.join("a"), fs::Permissions::from_mode(0o777)).unwrap();
        assert!(refused(&root.join("a/b/new")).contains("mode 777"));
        assert!(!root.join("a/b/new").exists());
        fs::set_permissions(root.join("a"), fs::Permissions::from_mode(0o1777)).unwrap();
        private_directory(&root.join("a/b/new")).unwrap();
        assert!(
            refused(&root.join("a")).contains("mode 1777"),
            "no other user may write into the directory itself"
        );
    }

    #[test]
    fn files_are_never_opened_through_a_link() {
        let directory = tempfile::tempdir().unwrap();
        let (victim, link) = (directory.path().join("victim"), directory.path().join("x.cfg"));
        fs::write(&victim, "precious").unwrap();
        symlink(&victim, &link).unwrap();
        assert!(open_log(&link).is_err() && open_lock(&link).is_err());
        symlink(&victim, directory.path().join("x.new")).unwrap();
        replace(&link, "ours").unwrap();
        assert_eq!(fs::read_to_string(&victim).unwrap(), "precious");
        assert!(fs::symlink_metadata(&link).unwrap().is_file());
        assert_eq!(fs::read_to_string(&link).unwrap(), "ours");
        open_log(&link).unwrap().write_all(b" and more").unwrap();
        assert_eq!(fs::read_to_string(&link).unwrap(), "ours and more");
    }
}
