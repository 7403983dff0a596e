//! The stack's directories and files on a host that others use as well. A path is used only if nobody else can change where it leads:
//! each of its components is checked, and no file is opened through a symbolic link.

use anyhow::{Context, bail};
use nix::libc;
use std::{
    fs::{self, DirBuilder, File, Metadata},
    io::{self, ErrorKind, Write as _},
    os::unix::fs::{DirBuilderExt as _, MetadataExt as _, OpenOptionsExt as _},
    path::{Path, PathBuf},
};

/// Entries of such a directory can be removed and renamed by their owners alone.
const STICKY: u32 = 0o1000;
const WRITABLE_BY_OTHERS: u32 = 0o022;

/// Makes a directory that we alone can enter, with those above it that are missing, or checks the one that is there.
///
/// # Errors
/// It cannot be made, or somebody else could replace it or write into it: it or a directory above it is a symbolic link, belongs to
/// another user, or can be written by others.
pub fn private_directory(path: &Path) -> anyhow::Result<()> {
    let doing = || format!("cannot make the directory {}", path.display());
    let path = std::path::absolute(path).with_context(doing)?;
    let us = nix::unistd::geteuid().as_raw();
    let mut way = PathBuf::new();
    // From the root on: what has been checked nobody else can replace, so what is checked next is what is used later.
    for component in path.components() {
        way.push(component);
        let found = match fs::symlink_metadata(&way) {
            Err(error) if error.kind() == ErrorKind::NotFound => make(&way),
            found => found,
        }
        .with_context(doing)?;
        if let Some(fault) = fault(&Kind::of(&found), us, way == path) {
            bail!("{} {fault}", way.display());
        }
    }
    Ok(())
}

fn make(path: &Path) -> io::Result<Metadata> {
    match DirBuilder::new().mode(0o700).create(path) {
        // Somebody was faster: it is judged like any other.
        Err(error) if error.kind() != ErrorKind::AlreadyExists => Err(error),
        _ => fs::symlink_metadata(path),
    }
}

/// What decides whether a component of a path can be relied on.
struct Kind {
    is_link: bool,
    is_directory: bool,
    owner: u32,
    mode: u32,
}

impl Kind {
    fn of(metadata: &Metadata) -> Self {
        Self {
            is_link: metadata.is_symlink(),
            is_directory: metadata.is_dir(),
            owner: metadata.uid(),
            mode: metadata.mode(),
        }
    }
}

/// Why a component of a path cannot be relied on by user `us`; `last` is the directory itself, which must be ours.
fn fault(kind: &Kind, us: u32, last: bool) -> Option<String> {
    let Kind { is_link, is_directory, owner, mode } = *kind;
    let writable = mode & WRITABLE_BY_OTHERS != 0 && (last || mode & STICKY == 0);
    if is_link {
        Some("is a symbolic link, which could be made to lead elsewhere: give --state-dir without one".into())
    } else if !is_directory {
        Some("is not a directory: give another with --state-dir".into())
    } else if owner != us && (last || owner != 0) {
        Some(format!("belongs to user {owner}, we are {us}: give another with --state-dir"))
    } else if writable {
        let mode = mode & 0o7777;
        Some(format!(
            "can be written by others (mode {mode:o}): `chmod go-w` it, or give another with --state-dir"
        ))
    } else {
        None
    }
}

/// Opens a log to write at its end; makes it where it is missing. A symbolic link in its place is an error.
///
/// # Errors
/// The system's own.
pub fn open_log(path: &Path) -> io::Result<File> {
    File::options().create(true).append(true).mode(0o600).custom_flags(libc::O_NOFOLLOW).open(path)
}

/// Opens a file to lock it; makes it where it is missing. A symbolic link in its place is an error.
pub(crate) fn open_lock(path: &Path) -> io::Result<File> {
    let mut options = File::options();
    options.create(true).truncate(false).read(true).write(true);
    options.mode(0o600).custom_flags(libc::O_NOFOLLOW).open(path)
}

/// Puts a new file with this text in the place of whatever is at `path`; a symbolic link there is replaced, not followed.
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

/// Whether a process of user `uid` may give orders here, or take them from here: it is ours or root's.
pub(crate) fn is_trusted(uid: u32) -> bool {
    uid == 0 || uid == nix::unistd::geteuid().as_raw()
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::fs::{PermissionsExt as _, symlink};

    const US: u32 = 1000;

    fn judge(owner: u32, mode: u32, last: bool) -> Option<String> {
        fault(&Kind { is_link: false, is_directory: true, owner, mode }, US, last)
    }

    #[test]
    fn whom_a_component_belongs_to_and_who_can_write_it() {
        for (owner, mode) in [(0, 0o755), (0, 0o1777), (US, 0o700), (US, 0o755), (US, 0o1777)] {
            assert_eq!(judge(owner, mode, false), None, "{owner} {mode:o}");
        }
        for (owner, mode, expected) in [
            (1001, 0o755, "belongs to user 1001"),
            (1001, 0o1777, "belongs to user 1001"),
            (0, 0o777, "mode 777"),
            (US, 0o775, "mode 775"),
            (US, 0o702, "mode 702"),
        ] {
            assert!(judge(owner, mode, false).unwrap().contains(expected), "{owner} {mode:o}");
        }
        assert_eq!(judge(US, 0o700, true), None);
        for (owner, mode) in [(0, 0o700), (1001, 0o700), (US, 0o1777), (US, 0o770)] {
            assert!(judge(owner, mode, true).is_some(), "{owner} {mode:o}");
        }
    }

    fn refused(path: &Path) -> String {
        format!("{:#}", private_directory(path).unwrap_err())
    }

    #[test]
    fn every_component_is_checked_and_nothing_is_made_behind_a_bad_one() {
        let directory = tempfile::tempdir().unwrap();
        let root = directory.path();
        private_directory(&root.join("a/b/c")).unwrap();
        private_directory(&root.join("a/b/c")).unwrap();
        for made in ["a", "a/b", "a/b/c"] {
            assert_eq!(fs::metadata(root.join(made)).unwrap().mode() & 0o777, 0o700, "{made}");
        }
        symlink(root.join("a"), root.join("link")).unwrap();
        for path in ["link", "link/b", "link/b/c", "link/new"] {
            let told = refused(&root.join(path));
            assert!(told.contains("link is a symbolic link") && told.contains("--state-dir"), "{told}");
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
        assert!(refused(&root.join("a")).contains("mode 1777"), "the directory itself is ours alone");
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
