//! Reads the tables of a target file. All errors are collected, and an unknown key is reported with the nearest known one.

use super::{
    pointer::Pointer,
    template::{JsonTemplate, Template},
};
use serde_json::{Map, Number, Value};
use std::cell::RefCell;

/// The errors of a file.
pub(super) type Errors = RefCell<Vec<String>>;

/// A table of the file whose keys are read one by one.
pub(super) struct Section<'e> {
    table: toml::Table,
    /// Where the table is, for messages, with a dot at its end. Empty for the file itself.
    path: String,
    known: Vec<&'static str>,
    errors: &'e Errors,
}

impl<'e> Section<'e> {
    pub(super) const fn new(table: toml::Table, path: String, errors: &'e Errors) -> Self {
        Self { table, path, known: Vec::new(), errors }
    }

    /// Notes an error at this table.
    pub(super) fn error(&self, key: &str, why: &str) {
        self.errors.borrow_mut().push(format!("{}{key}: {why}", self.path));
    }

    /// Returns whether an error was noted at this key.
    pub(super) fn has_error(&self, key: &str) -> bool {
        let start = format!("{}{key}: ", self.path);
        self.errors.borrow().iter().any(|error| error.starts_with(&start))
    }

    /// Takes the value of a key.
    pub(super) fn take(&mut self, key: &'static str) -> Option<toml::Value> {
        self.known.push(key);
        self.table.remove(key)
    }

    /// Takes all values, whatever their keys.
    pub(super) fn take_all(&mut self) -> toml::Table {
        std::mem::take(&mut self.table)
    }

    /// Takes a text.
    pub(super) fn text(&mut self, key: &'static str) -> Option<String> {
        match self.take(key)? {
            toml::Value::String(text) => Some(text),
            other => {
                self.error(key, &format!("expected a text, not {}", other.type_str()));
                None
            }
        }
    }

    /// Takes a text that must be there.
    pub(super) fn needed(&mut self, key: &'static str, example: &str) -> String {
        let is_there = self.table.contains_key(key);
        let text = self.text(key);
        if !is_there {
            self.error(key, &format!("is missing: expected for example {example}"));
        }
        text.unwrap_or_default()
    }

    /// Takes a truth value.
    pub(super) fn flag(&mut self, key: &'static str) -> bool {
        match self.take(key) {
            None => false,
            Some(toml::Value::Boolean(is)) => is,
            Some(other) => {
                self.error(key, &format!("expected true or false, not {}", other.type_str()));
                false
            }
        }
    }

    /// Takes one of several words.
    pub(super) fn word<T: Copy>(&mut self, key: &'static str, words: &[(&'static str, T)]) -> Option<T> {
        let text = self.text(key)?;
        let found = words.iter().find(|(word, _)| *word == text).map(|(_, value)| *value);
        if found.is_none() {
            let known: Vec<_> = words.iter().map(|(word, _)| *word).collect();
            self.error(key, &format!("unknown word \"{text}\": expected {}", known.join(", ")));
        }
        found
    }

    /// Takes a number that is not negative.
    pub(super) fn number(&mut self, key: &'static str) -> Option<u64> {
        let value = self.take(key)?;
        let number = value.as_integer().and_then(|number| u64::try_from(number).ok());
        if number.is_none() {
            self.error(key, &format!("invalid number {value}: expected 0 or more"));
        }
        number
    }

    /// Takes a list of texts.
    pub(super) fn texts(&mut self, key: &'static str) -> Vec<String> {
        let Some(value) = self.take(key) else { return Vec::new() };
        let items = value.as_array().map(|items| items.iter().map(|item| item.as_str().map(str::to_owned)));
        let texts: Option<Vec<_>> = items.and_then(Iterator::collect);
        if texts.is_none() {
            self.error(key, "expected a list of texts, for example [\"a\", \"b\"]");
        }
        texts.unwrap_or_default()
    }

    /// Takes a JSON pointer.
    pub(super) fn pointer(&mut self, key: &'static str) -> Option<Pointer> {
        let text = self.text(key)?;
        self.valid(key, Pointer::parse(&text))
    }

    /// Takes a JSON pointer, or a list of them.
    pub(super) fn pointers(&mut self, key: &'static str) -> Vec<Pointer> {
        let texts = match self.table.get(key) {
            Some(toml::Value::Array(_)) => self.texts(key),
            _ => self.text(key).into_iter().collect(),
        };
        texts.iter().filter_map(|text| self.valid(key, Pointer::parse(text))).collect()
    }

    /// Takes a text with placeholders.
    pub(super) fn template(&mut self, key: &'static str) -> Option<Template> {
        let text = self.text(key)?;
        self.valid(key, Template::parse(&text))
    }

    /// Takes a JSON value with placeholders.
    pub(super) fn json(&mut self, key: &'static str) -> Option<JsonTemplate> {
        let value = self.take(key)?;
        self.valid(key, JsonTemplate::parse(json(value)))
    }

    /// Takes a table of texts, each with its name.
    pub(super) fn named_texts(&mut self, key: &'static str) -> Vec<(String, String)> {
        let Some(mut section) = self.section(key) else { return Vec::new() };
        let mut texts = Vec::new();
        for (name, value) in section.take_all() {
            match value {
                toml::Value::String(text) => texts.push((name, text)),
                other => section.error(&name, &format!("expected a text, not {}", other.type_str())),
            }
        }
        texts
    }

    /// Takes a table.
    pub(super) fn section(&mut self, key: &'static str) -> Option<Section<'e>> {
        match self.take(key)? {
            toml::Value::Table(table) => {
                Some(Section::new(table, format!("{}{key}.", self.path), self.errors))
            }
            other => {
                self.error(key, &format!("expected a table, not {}", other.type_str()));
                None
            }
        }
    }

    /// Takes a list of tables.
    pub(super) fn sections(&mut self, key: &'static str) -> Vec<Section<'e>> {
        let Some(value) = self.take(key) else { return Vec::new() };
        let tables = match value {
            toml::Value::Array(items) => items,
            other => vec![other],
        };
        let mut sections = Vec::new();
        for (index, item) in tables.into_iter().enumerate() {
            match item {
                toml::Value::Table(table) => {
                    let path = format!("{}{key}[{}].", self.path, index + 1);
                    sections.push(Section::new(table, path, self.errors));
                }
                other => self.error(key, &format!("expected tables, not {}", other.type_str())),
            }
        }
        sections
    }

    /// Returns the value, or notes why it is invalid.
    pub(super) fn valid<T>(&self, key: &str, value: Result<T, String>) -> Option<T> {
        value.map_err(|why| self.error(key, &why)).ok()
    }

    /// Reports the keys that were not read.
    pub(super) fn finish(self) {
        for key in self.table.keys() {
            let nearest = nearest(key, &self.known);
            let known = || self.known.join(", ");
            let advice = nearest.map_or_else(
                || format!("expected one of {}", known()),
                |nearest| format!("did you mean `{nearest}`?"),
            );
            self.errors.borrow_mut().push(format!("unknown key `{}{key}`: {advice}", self.path));
        }
    }
}

/// Returns a TOML value as JSON.
pub(super) fn json(value: toml::Value) -> Value {
    match value {
        toml::Value::String(text) => Value::String(text),
        toml::Value::Integer(number) => Value::Number(number.into()),
        toml::Value::Float(number) => Number::from_f64(number).map_or(Value::Null, Value::Number),
        toml::Value::Boolean(is) => Value::Bool(is),
        toml::Value::Datetime(time) => Value::String(time.to_string()),
        toml::Value::Array(items) => Value::Array(items.into_iter().map(json).collect()),
        toml::Value::Table(table) => {
            Value::Object(table.into_iter().map(|(name, value)| (name, json(value))).collect::<Map<_, _>>())
        }
    }
}

/// Returns the known name that is most similar to `name`, unless all differ too much.
pub(super) fn nearest<'a>(name: &str, known: &[&'a str]) -> Option<&'a str> {
    let limit = 1 + name.chars().count() / 3;
    let all = known.iter().map(|known| (distance(name, known), *known));
    all.filter(|(distance, _)| *distance <= limit).min().map(|(_, known)| known)
}

/// Returns how many letters must be changed, added or removed to make `a` from `b`.
fn distance(a: &str, b: &str) -> usize {
    let b: Vec<char> = b.chars().collect();
    let mut row: Vec<usize> = (0..=b.len()).collect();
    for (i, of_a) in a.chars().enumerate() {
        let mut diagonal = std::mem::replace(&mut row[0], i + 1);
        for (j, of_b) in b.iter().enumerate() {
            let replaced = diagonal + usize::from(of_a != *of_b);
            diagonal = row[j + 1];
            row[j + 1] = replaced.min(diagonal + 1).min(row[j] + 1);
        }
    }
    row[b.len()]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_nearest_name_is_found() {
        let known = ["transport", "subprotocols", "path", "headers"];
        for (name, expected) in [
            ("transports", Some("transport")),
            ("subprotocol", Some("subprotocols")),
            ("header", Some("headers")),
            ("Path", Some("path")),
            ("colour", None),
        ] {
            assert_eq!(nearest(name, &known), expected, "{name}");
        }
    }
}
