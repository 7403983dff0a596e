//! Links to result files that work without the access token, for a while: a frame or a download cannot send a header. The link itself is
//! a random secret for one file.

use crate::token::Token;
use parking_lot::Mutex;
use std::{
    collections::BTreeMap,
    path::PathBuf,
    time::{Duration, Instant},
};

/// Time for which a link works.
const LIFETIME: Duration = Duration::from_secs(600);
/// Most links at the same time. Further ones replace the oldest.
const MOST: usize = 256;

/// A file behind a link.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct LinkedFile {
    pub(crate) path: PathBuf,
    pub(crate) is_download: bool,
}

/// All links.
#[derive(Debug, Default)]
pub(crate) struct Links(Mutex<BTreeMap<String, (Instant, LinkedFile)>>);

impl Links {
    /// Returns the name of a new link.
    pub(crate) fn add(&self, file: LinkedFile) -> String {
        let mut links = self.0.lock();
        links.retain(|_, (made, _)| made.elapsed() < LIFETIME);
        if links.len() >= MOST
            && let Some(oldest) =
                links.iter().min_by_key(|(_, (made, _))| *made).map(|(name, _)| name.clone())
        {
            links.remove(&oldest);
        }
        let name = Token::draw().reveal().to_owned();
        links.insert(name.clone(), (Instant::now(), file));
        name
    }

    /// Returns the file of a link that still works.
    pub(crate) fn get(&self, name: &str) -> Option<LinkedFile> {
        let links = self.0.lock();
        links.get(name).filter(|(made, _)| made.elapsed() < LIFETIME).map(|(_, file)| file.clone())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_link_is_for_one_file_and_their_number_is_limited() {
        let links = Links::default();
        let file = |name: &str| LinkedFile { path: name.into(), is_download: false };
        let names: Vec<_> = (0..=MOST).map(|n| links.add(file(&n.to_string()))).collect();
        assert_eq!(links.get(&names[MOST]), Some(file(&MOST.to_string())));
        assert_eq!(links.get(&names[0]), None, "the oldest made room");
        assert_eq!(links.get("x"), None);
    }
}
