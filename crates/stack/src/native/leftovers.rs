//! Cleans the state directory after the end of a stack. The logs and the lock file stay: a lock file that is removed could be locked
//! twice. Files are recognized by their names, and other files in the directory stay as well.

use std::{fs, io::ErrorKind, path::Path};
use tracing::warn;

/// Removes configurations, sockets, links to sockets, and the data of Redis, which no later stack uses.
pub(super) fn remove(state_dir: &Path) {
    let entries = match fs::read_dir(state_dir) {
        Ok(entries) => entries,
        Err(error) => return warn!(%error, "cannot read {}", state_dir.display()),
    };
    for entry in entries.flatten() {
        let path = entry.path();
        let removed = match entry.file_name().to_str() {
            Some("redis") => fs::remove_dir_all(&path),
            Some(name) if is_leftover(name) => fs::remove_file(&path),
            _ => continue,
        };
        if let Err(error) = removed
            && error.kind() != ErrorKind::NotFound
        {
            warn!(%error, "cannot remove {}", path.display());
        }
    }
}

fn is_leftover(name: &str) -> bool {
    let is_socket = [".sock", ".via", ".new"].iter().any(|ending| name.ends_with(ending));
    let has_our_name = ["redis.", "server-", "wsproxy-"].iter().any(|start| name.starts_with(start));
    ["redis.conf", "dump.rdb", "base.cfg", "base.new", "backends.cfg", "backends.new"].contains(&name)
        || (is_socket && has_our_name)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_files_of_the_stack_are_removed() {
        let directory = tempfile::tempdir().unwrap();
        let state_dir = directory.path();
        let removed =
            ["redis.conf", "redis.sock", "redis.server-1.sock", "redis.wsproxy-1.via", "wsproxy-2.own.sock"];
        let kept = ["lock", "notes.txt", "redis.txt", "other.sock"];
        removed.iter().chain(&kept).for_each(|name| fs::write(state_dir.join(name), "").unwrap());
        for directory in ["redis/appendonlydir", "logs", "server-results"] {
            fs::create_dir_all(state_dir.join(directory)).unwrap();
        }
        remove(state_dir);
        let mut names: Vec<_> = fs::read_dir(state_dir)
            .unwrap()
            .map(|entry| entry.unwrap().file_name().into_string().unwrap())
            .collect();
        names.sort();
        assert_eq!(names, ["lock", "logs", "notes.txt", "other.sock", "redis.txt", "server-results"]);
    }
}
