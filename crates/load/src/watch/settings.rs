//! The settings that servers and gateways state in their `/metrics`, as labels of `server_settings` and `wsproxy_settings`.

use std::collections::BTreeMap;

/// Largest number of settings of one member.
const MOST: usize = 100;

/// Returns the settings that a page in OpenMetrics' text format states, by the names of the flags. Empty if it states none, as pages of
/// older versions do.
pub(super) fn settings(page: &str) -> BTreeMap<String, String> {
    let labels = page.lines().find_map(|line| {
        ["server_settings{", "wsproxy_settings{"].iter().find_map(|start| line.strip_prefix(start))
    });
    let Some(mut rest) = labels else { return BTreeMap::new() };
    let mut found = BTreeMap::new();
    while let Some((name, after)) = rest.split_once("=\"") {
        let Some((value, after)) = quoted(after) else { break };
        found.insert(name.trim_start_matches(',').replace('_', "-"), value);
        rest = after;
        if found.len() == MOST || !rest.starts_with(',') {
            break;
        }
    }
    found
}

/// Reads a label's value up to its closing quote. Returns it and what follows.
fn quoted(text: &str) -> Option<(String, &str)> {
    let mut value = String::new();
    let mut characters = text.char_indices();
    while let Some((at, character)) = characters.next() {
        match character {
            '"' => return Some((value, &text[at + 1..])),
            '\\' => value.push(match characters.next()?.1 {
                'n' => '\n',
                other => other,
            }),
            other => value.push(other),
        }
    }
    None
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn settings_have_the_names_of_their_flags() {
        let page = "# TYPE x gauge\nserver_settings{delivery=\"pubsub\",max_streams=\"300\",llm_response_text=\"a \\\"b\\\", \\\\c\\nd\"} 1\nserver_draining 0\n";
        let expected =
            [("delivery", "pubsub"), ("llm-response-text", "a \"b\", \\c\nd"), ("max-streams", "300")];
        let expected = expected.map(|(name, value)| (name.to_owned(), value.to_owned()));
        assert_eq!(settings(page), BTreeMap::from(expected));
    }

    #[test]
    fn other_pages_state_nothing() {
        for page in
            ["", "server_draining 0", "server_settings{", "server_settings{x=\"", "wsproxy_settings{} 1"]
        {
            assert_eq!(settings(page), BTreeMap::new(), "{page}");
        }
    }
}
