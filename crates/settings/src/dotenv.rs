//! Reads `.env` files by the rules of Docker Compose, which reads the same file: quotes, comments, `export`, `${NAME:-default}`.
//! Lines that are not of the form `NAME=value` are skipped. An invalid value is an error only if its variable is used.

use std::{collections::BTreeMap, fmt};

/// Upper limit of the nesting of `${…}` expressions.
const DEEPEST: usize = 20;

/// The value that a line assigns to a variable.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Entry {
    /// The line's number, from 1.
    pub line: usize,
    /// The value with all variables expanded, or the error in it. The error does not show the value, which may be a secret.
    pub value: Result<String, String>,
}

impl fmt::Display for Entry {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, ".env line {}", self.line)
    }
}

/// The variables of a file by name. If two lines assign the same variable, the last one wins.
pub type Variables = BTreeMap<String, Entry>;

/// Reads the text of a file. Where a value refers to a variable, `environment` has precedence over the file.
#[must_use]
pub fn parse(text: &str, environment: &dyn Fn(&str) -> Option<String>) -> Variables {
    let mut variables = Variables::new();
    let text = text.trim_start_matches('\u{feff}');
    let (mut rest, mut number) = (text, 1);
    while !rest.is_empty() {
        let (line, after) = rest.split_once('\n').unwrap_or((rest, ""));
        let (mut taken, line_number) = (1, number);
        rest = after;
        if let Some((name, start)) = assignment(line) {
            let lookup = |name: &str| {
                environment(name).or_else(|| variables.get(name).and_then(|entry| entry.value.clone().ok()))
            };
            let value = match start.chars().next() {
                // A quoted value may have several lines, so that it is searched for in the whole rest of the file.
                Some(quote @ ('"' | '\'')) => {
                    let from = start.as_ptr() as usize - text.as_ptr() as usize;
                    match quoted(&text[from + 1..], quote) {
                        Some((inner, behind)) => {
                            taken += inner.matches('\n').count();
                            let (behind, after) = behind.split_once('\n').unwrap_or((behind, ""));
                            rest = after;
                            ended(behind).and_then(|()| unquoted(inner, quote, &lookup))
                        }
                        None => Err(format!("the value has an opening {quote} without a closing one")),
                    }
                }
                _ => expand(without_comment(start), &lookup, 0),
            };
            variables.insert(name.to_owned(), Entry { line: line_number, value });
        } else if let Some(name) = unassigned(line) {
            let value = Err("there is no `=` after the name: expected NAME=value".to_owned());
            variables.insert(name.to_owned(), Entry { line: line_number, value });
        }
        number += taken;
    }
    variables
}

/// Returns the variable that a line assigns, and the line from the value on.
fn assignment(line: &str) -> Option<(&str, &str)> {
    let line = line.trim_start();
    let exported = line.strip_prefix("export").filter(|rest| rest.starts_with([' ', '\t']));
    // `export=1` assigns a variable named `export`.
    let line = exported.map_or(line, str::trim_start);
    let (name, value) = line.split_once(['=', ':'])?;
    let name = name.trim_end();
    is_name(name).then(|| (name, value.trim_start()))
}

/// Returns the name of a line `NAME text` without `=`. A name in capitals was meant as a variable, so that this is an error.
fn unassigned(line: &str) -> Option<&str> {
    let line = line.trim_start();
    let (name, rest) = line.strip_prefix("export ").unwrap_or(line).trim_start().split_once([' ', '\t'])?;
    let is_variable = is_name(name) && !name.contains(|c: char| c.is_ascii_lowercase());
    (is_variable && !rest.trim().is_empty()).then_some(name)
}

fn is_name(name: &str) -> bool {
    name.starts_with(|c: char| c.is_ascii_alphabetic() || c == '_')
        && name.chars().all(|c| c.is_ascii_alphanumeric() || matches!(c, '_' | '.' | '-'))
}

/// Removes a comment. It must follow a blank, so that `a#b` is a value.
fn without_comment(value: &str) -> &str {
    let comment = value
        .char_indices()
        .find(|&(at, c)| c == '#' && value[..at].chars().next_back().is_none_or(char::is_whitespace));
    value[..comment.map_or(value.len(), |(at, _)| at)].trim_end()
}

/// Returns the text before the closing quotation mark and the text after it.
fn quoted(text: &str, quote: char) -> Option<(&str, &str)> {
    let mut escaped = false;
    let end = text.char_indices().find(|&(_, c)| {
        let ends = c == quote && !escaped;
        escaped = c == '\\' && !escaped;
        ends
    });
    end.map(|(at, _)| (&text[..at], &text[at + 1..]))
}

/// Checks that nothing but a comment follows a quoted value.
fn ended(behind: &str) -> Result<(), String> {
    let behind = behind.trim();
    if behind.is_empty() || behind.starts_with('#') {
        return Ok(());
    }
    Err("there is text after the closing quotation mark".to_owned())
}

/// Evaluates a quoted value. Single quotes keep everything as it is, except an escaped single quote.
fn unquoted(inner: &str, quote: char, lookup: &dyn Fn(&str) -> Option<String>) -> Result<String, String> {
    if quote == '\'' { Ok(inner.replace("\\'", "'")) } else { expand_escaped(inner, lookup) }
}

/// Replaces escapes, then expands variables. This order keeps an escaped dollar sign from starting a variable.
fn expand_escaped(inner: &str, lookup: &dyn Fn(&str) -> Option<String>) -> Result<String, String> {
    let (mut text, mut chars) = (String::with_capacity(inner.len()), inner.chars());
    while let Some(c) = chars.next() {
        match (c, (c == '\\').then(|| chars.next()).flatten()) {
            ('\\', Some('n')) => text.push('\n'),
            ('\\', Some('r')) => text.push('\r'),
            ('\\', Some('t')) => text.push('\t'),
            ('\\', Some('$')) => text.push_str("$$"),
            ('\\', Some(escaped)) => text.push(escaped),
            _ => text.push(c),
        }
    }
    expand(&text, lookup, 0)
}

/// Expands `$NAME`, `${NAME}` and expressions with a default, a replacement or an error message. `$$` becomes a dollar sign.
/// A dollar sign before any other character is kept.
fn expand(text: &str, lookup: &dyn Fn(&str) -> Option<String>, depth: usize) -> Result<String, String> {
    if depth > DEEPEST {
        return Err(format!("expressions are nested more than {DEEPEST} deep"));
    }
    let (mut out, mut rest) = (String::with_capacity(text.len()), text);
    while let Some((before, after)) = rest.split_once('$') {
        out.push_str(before);
        rest = if let Some(after) = after.strip_prefix('$') {
            out.push('$');
            after
        } else if let Some(inner) = after.strip_prefix('{') {
            let end = closing_brace(inner).ok_or("`${` has no `}`")?;
            out.push_str(&expression(&inner[..end], lookup, depth)?);
            &inner[end + 1..]
        } else {
            let (name, after) = after.split_at(name_length(after));
            match name {
                "" => out.push('$'),
                name => out.push_str(&lookup(name).unwrap_or_default()),
            }
            after
        };
    }
    out.push_str(rest);
    Ok(out)
}

/// Returns the length in bytes of the variable name at the start of `text`. 0: there is no name.
fn name_length(text: &str) -> usize {
    if text.starts_with(|c: char| c.is_ascii_digit()) {
        return 0;
    }
    text.find(|c: char| !c.is_ascii_alphanumeric() && c != '_').unwrap_or(text.len())
}

/// Returns the index of the brace that closes an expression. Nested expressions are skipped.
fn closing_brace(text: &str) -> Option<usize> {
    let (mut open, mut before) = (0usize, ' ');
    for (at, c) in text.char_indices() {
        match c {
            '}' if open == 0 => return Some(at),
            '}' => open -= 1,
            '{' if before == '$' => open += 1,
            _ => {}
        }
        before = c;
    }
    None
}

/// Evaluates `NAME`, or `NAME` with `:-`, `-`, `:?`, `?`, `:+` or `+` and a text. With the colon, an empty value counts as unset.
fn expression(inner: &str, lookup: &dyn Fn(&str) -> Option<String>, depth: usize) -> Result<String, String> {
    let (name, rest) = inner.split_at(name_length(inner));
    let operator = rest.strip_prefix(':').unwrap_or(rest);
    let found = lookup(name).filter(|value| operator.len() == rest.len() || !value.is_empty());
    let mut characters = operator.chars();
    let (sign, text) = (characters.next(), characters.as_str());
    match sign {
        _ if name.is_empty() => Err("`${…}` names no variable".to_owned()),
        None if rest.is_empty() => Ok(found.unwrap_or_default()),
        Some('-') => found.map_or_else(|| expand(text, lookup, depth + 1), Ok),
        Some('+') => found.map_or_else(|| Ok(String::new()), |_| expand(text, lookup, depth + 1)),
        Some('?') => found.ok_or_else(|| {
            let why = if text.is_empty() { "it is required" } else { text };
            format!("the variable {name} has no value: {why}")
        }),
        _ => Err(format!(
            "invalid expression on {name}: expected ${{{name}}}, ${{{name}:-default}}, ${{{name}:?message}} or \
             ${{{name}:+replacement}}"
        )),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn read(text: &str) -> Variables {
        let environment = |name: &str| match name {
            "HOME" => Some("/home/me".to_owned()),
            "EMPTY" => Some(String::new()),
            _ => None,
        };
        parse(text, &environment)
    }

    /// The value of `A`.
    #[track_caller]
    fn value(text: &str) -> String {
        read(text)["A"].value.clone().unwrap_or_else(|why| panic!("{text}: {why}"))
    }

    #[test]
    fn values_by_the_rules_of_compose() {
        for (text, expected) in [
            ("A=4", "4"),
            ("A=", ""),
            ("A = 4 ", "4"),
            ("A: 4", "4"),
            ("  export A=4\r\n", "4"),
            ("export\tA=\"4\"", "4"),
            ("\u{feff}A=4", "4"),
            ("A=hello big world", "hello big world"),
            ("A=a # comment", "a"),
            ("A=a# none", "a# none"),
            ("A=# comment", ""),
            ("A=\"a # none\" # comment", "a # none"),
            ("A='$HOME ${HOME}'", "$HOME ${HOME}"),
            ("A='Let\\'s go'", "Let's go"),
            ("A=\"{\\\"hello\\\": \\\"json\\\"}\"", "{\"hello\": \"json\"}"),
            ("A=\"a\\tb\\nc\\\\\"", "a\tb\nc\\"),
            ("A=a\\tb", "a\\tb"),
            ("A=\"a\nb\"\nB=1", "a\nb"),
            ("A=$HOME/x", "/home/me/x"),
            ("A=\"${HOME}x\"", "/home/mex"),
            ("A=\\$HOME", "\\/home/me"),
            ("A=\"\\$HOME\"", "$HOME"),
            ("A=$$HOME", "$HOME"),
            ("A=5$ and $1", "5$ and $1"),
            ("B=7\nA=$B${B}", "77"),
            ("HOME=other\nA=$HOME", "/home/me"),
            ("A=1\nA=2", "2"),
            ("A=${N:-4}", "4"),
            ("A=${N-4}", "4"),
            ("A=${EMPTY:-4}", "4"),
            ("A=${EMPTY-4}", ""),
            ("A=${HOME:-4}", "/home/me"),
            ("A=${N:-${M:-${HOME}}}!", "/home/me!"),
            ("A=${N:-}", ""),
            ("A=${HOME:+set}", "set"),
            ("A=${EMPTY:+set}", ""),
            ("A=${EMPTY+set}", "set"),
            ("A=${HOME:?needed}", "/home/me"),
            ("A=${N}", ""),
            ("A=redis://:p@h:1/0?a=b", "redis://:p@h:1/0?a=b"),
        ] {
            assert_eq!(value(text), expected, "{text:?}");
        }
    }

    #[test]
    fn other_lines_are_skipped_and_invalid_values_have_line_numbers() {
        let text = "#!/bin/sh\nset -a\nif [ -f x ]; then\nsome words\n=3\n1A=2\n[section]\nB\n\nA=ok\nE=${D\nF=${D/4/5}\n\
                    G=\"a\"b\nH=${N:?give N}\nI=\"x\ny\"\nJ=${}\n";
        let shown: Vec<_> = read(text)
            .iter()
            .map(|(name, entry)| match &entry.value {
                Ok(value) => format!("{name} {}: {value}", entry.line),
                Err(why) => format!("{name} {} !{}", entry.line, why.chars().take(12).collect::<String>()),
            })
            .collect();
        let expected = [
            "A 10: ok",
            "E 11 !`${` has no ",
            "F 12 !invalid expr",
            "G 13 !there is tex",
            "H 14 !the variable",
            "I 15: x\ny",
            "J 17 !`${…}` names ",
        ];
        assert_eq!(shown.iter().map(|line| line.trim_end()).collect::<Vec<_>>(), expected.map(str::trim_end));
    }

    #[test]
    fn an_unclosed_quotation_mark_affects_only_its_own_line() {
        assert_eq!(read("A 4\n  export B\t4\nsome words\nC \n").keys().collect::<Vec<_>>(), ["A", "B"]);
        assert!(read("A 4")["A"].value.as_ref().unwrap_err().contains("expected NAME=value"));
        let variables = read("C=\"never closed\nD=4\n");
        assert!(variables["C"].value.as_ref().unwrap_err().contains("without a closing one"));
        assert_eq!((variables["D"].line, variables["D"].value.clone()), (2, Ok("4".to_owned())));
        let deep = format!("A={}x{}", "${N:-".repeat(100), "}".repeat(100));
        assert!(read(&deep)["A"].value.as_ref().unwrap_err().contains("nested"));
    }

    proptest! {
        #[test]
        fn no_text_panics(text in "[A-C=:$ {}?+\\-\"'\\\\#\nné]{0,60}") {
            let _ = read(&text);
        }
    }
}
