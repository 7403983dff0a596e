//! What a stack that has ended leaves in its directory: the logs, and the lock, which must not change hands unseen.
//! It knows the stack's own files by their names, and touches nothing else that somebody keeps there.

use std::{fs, io::ErrorKind, path::Path};
use tracing::warn;

/// Removes what only the processes needed: configurations, sockets with their links, and Redis's data, with which no stack
/// ever starts again.
pub(super) fn sweep(state: &Path) {
    let entries = match fs::read_dir(state) {
        Ok(entries) => entries,
        Err(error) => return warn!(%error, "cannot look into {}", state.display()),
    };
    for entry in entries.flatten() {
        let path = entry.path();
        let removed = match entry.file_name().to_str() {
            Some("redis") => fs::remove_dir_all(&path),
            Some(name) if was_needed(name) => fs::remove_file(&path),
            _ => continue,
        };
        if let Err(error) = removed
            && error.kind() != ErrorKind::NotFound
        {
            warn!(%error, "cannot remove {}", path.display());
        }
    }
}

fn was_needed(name: &str) -> bool {
    let is_socket = [".sock", ".via", ".new"].iter().any(|ending| name.ends_with(ending));
    let is_ours = ["redis.", "server-", "wsproxy-"].iter().any(|start| name.starts_with(start));
    ["redis.conf", "dump.rdb", "base.cfg", "base.new", "backends.cfg", "backends.new"].contains(&name)
        || (is_socket && is_ours)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_stacks_own_files_go_and_all_others_stay() {
        let directory = tempfile::tempdir().unwrap();
        let state = directory.path();
        let passing =
            ["redis.conf", "redis.sock", "redis.server-1.sock", "redis.wsproxy-1.via", "wsproxy-2.own.sock"];
        let kept = ["lock", "notes.txt", "redis.txt", "other.sock"];
        passing.iter().chain(&kept).for_each(|name| fs::write(state.join(name), "").unwrap());
        for directory in ["redis/appendonlydir", "logs", "server-results"] {
            fs::create_dir_all(state.join(directory)).unwrap();
        }
        sweep(state);
        let mut names: Vec<_> = fs::read_dir(state)
            .unwrap()
            .map(|entry| entry.unwrap().file_name().into_string().unwrap())
            .collect();
        names.sort();
        assert_eq!(names, ["lock", "logs", "notes.txt", "other.sock", "redis.txt", "server-results"]);
    }
}
