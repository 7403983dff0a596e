//! Texts and JSON values with placeholders, for example `{{prompt}}`.

use super::pointer::scalar;
use serde_json::{Map, Value};
use std::{collections::BTreeMap, fmt::Write as _, sync::Arc};

/// A text with placeholders.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Template(Vec<Part>);

#[derive(Clone, Debug, PartialEq, Eq)]
enum Part {
    Text(String),
    Value { name: String, form: Form },
}

/// How a value is inserted.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Form {
    /// As it is.
    Plain,
    /// As a text, where a JSON value could also be a number.
    Text,
    /// As JSON, for JSON inside a string.
    Json,
}

impl Template {
    /// Reads a text.
    ///
    /// # Errors
    /// A placeholder is not closed, or has an unknown form.
    pub fn parse(text: &str) -> Result<Self, String> {
        let mut parts = Vec::new();
        let mut rest = text;
        while let Some((before, after)) = rest.split_once("{{") {
            if !before.is_empty() {
                parts.push(Part::Text(before.to_owned()));
            }
            let Some((inside, after)) = after.split_once("}}") else {
                return Err(format!("\"{text}\" has a `{{{{` without `}}}}`"));
            };
            let (name, form) = match inside.split_once('|') {
                None => (inside, Form::Plain),
                Some((name, form)) => match form.trim() {
                    "text" => (name, Form::Text),
                    "json" => (name, Form::Json),
                    form => {
                        return Err(format!("unknown form `{form}` in \"{text}\": expected text or json"));
                    }
                },
            };
            parts.push(Part::Value { name: name.trim().to_owned(), form });
            rest = after;
        }
        if !rest.is_empty() {
            parts.push(Part::Text(rest.to_owned()));
        }
        Ok(Self(parts))
    }

    /// Calls `take` with the name of each placeholder.
    pub fn names(&self, take: &mut dyn FnMut(&str)) {
        for part in &self.0 {
            if let Part::Value { name, .. } = part {
                take(name);
            }
        }
    }

    /// Returns the text with its values. `None` if a value is missing.
    pub fn render(&self, values: &Values) -> Option<String> {
        self.render_with(values, str::to_owned)
    }

    /// Returns the text as a part of a URL. Missing values are empty.
    pub fn render_url(&self, values: &Values) -> String {
        let one = |part: &Part| match part {
            Part::Text(text) => text.clone(),
            Part::Value { .. } => escaped(&Self(vec![part.clone()]).render(values).unwrap_or_default()),
        };
        self.0.iter().map(one).collect()
    }

    fn render_with(&self, values: &Values, write: impl Fn(&str) -> String) -> Option<String> {
        let mut text = String::new();
        for part in &self.0 {
            match part {
                Part::Text(part) => text.push_str(part),
                Part::Value { name, form: Form::Json } => text.push_str(&values.get(name)?.to_string()),
                Part::Value { name, .. } => text.push_str(&write(&plain(&values.get(name)?))),
            }
        }
        Some(text)
    }

    /// Returns the value, if the text is one placeholder, which keeps its type.
    fn value(&self, values: &Values) -> Option<Value> {
        match self.0.as_slice() {
            [Part::Value { name, form: Form::Plain }] => values.get(name),
            _ => self.render(values).map(Value::String),
        }
    }

    fn is_literal(&self) -> bool {
        self.0.iter().all(|part| matches!(part, Part::Text(_)))
    }
}

/// Returns a text as it is in a URL.
pub fn escaped(text: &str) -> String {
    text.bytes().fold(String::new(), |mut escaped, byte| {
        if byte.is_ascii_alphanumeric() || b"-._~".contains(&byte) {
            escaped.push(char::from(byte));
        } else {
            let _ = write!(escaped, "%{byte:02X}");
        }
        escaped
    })
}

fn plain(value: &Value) -> String {
    scalar(value).unwrap_or_else(|| if value.is_null() { String::new() } else { value.to_string() })
}

/// A JSON value with placeholders in its strings.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum JsonTemplate {
    Literal(Value),
    Text(Template),
    Array(Vec<Self>),
    Object(Vec<(String, Self)>),
}

impl JsonTemplate {
    /// Reads a value.
    ///
    /// # Errors
    /// The first string with an invalid placeholder.
    pub fn parse(value: Value) -> Result<Self, String> {
        Ok(match value {
            Value::String(text) => {
                let template = Template::parse(&text)?;
                if template.is_literal() { Self::Literal(Value::String(text)) } else { Self::Text(template) }
            }
            Value::Array(items) => Self::Array(items.into_iter().map(Self::parse).collect::<Result<_, _>>()?),
            Value::Object(members) => {
                let member = |(name, value)| Ok((name, Self::parse(value)?));
                Self::Object(members.into_iter().map(member).collect::<Result<_, String>>()?)
            }
            literal => Self::Literal(literal),
        })
    }

    /// Calls `take` with the name of each placeholder.
    pub fn names(&self, take: &mut dyn FnMut(&str)) {
        match self {
            Self::Literal(_) => {}
            Self::Text(template) => template.names(take),
            Self::Array(items) => items.iter().for_each(|item| item.names(take)),
            Self::Object(members) => members.iter().for_each(|(_, value)| value.names(take)),
        }
    }

    /// Returns the value. Members and items whose value is missing are left out.
    pub fn render(&self, values: &Values) -> Option<Value> {
        match self {
            Self::Literal(value) => Some(value.clone()),
            Self::Text(template) => template.value(values),
            Self::Array(items) => {
                Some(Value::Array(items.iter().filter_map(|item| item.render(values)).collect()))
            }
            Self::Object(members) => {
                let members = members.iter();
                let members = members.filter_map(|(name, value)| Some((name.clone(), value.render(values)?)));
                Some(Value::Object(members.collect::<Map<_, _>>()))
            }
        }
    }

    /// Returns the value as a message: a string as it is, anything else as JSON.
    pub fn message(&self, values: &Values) -> String {
        match self.render(values) {
            Some(Value::String(text)) => text,
            Some(value) => value.to_string(),
            None => String::new(),
        }
    }
}

/// The values of placeholders.
#[derive(Clone, Default)]
pub struct Values {
    known: BTreeMap<String, Value>,
    /// Values that are made from others.
    derived: Arc<BTreeMap<String, Template>>,
}

impl Values {
    /// Creates values, some of which are made from others.
    pub const fn new(derived: Arc<BTreeMap<String, Template>>) -> Self {
        Self { known: BTreeMap::new(), derived }
    }

    /// Sets a value.
    pub fn set(&mut self, name: &str, value: Value) {
        self.known.insert(name.to_owned(), value);
    }

    /// Removes a value.
    pub fn remove(&mut self, name: &str) {
        self.known.remove(name);
    }

    /// Returns a value.
    pub fn get(&self, name: &str) -> Option<Value> {
        if let Some(value) = self.known.get(name) {
            return Some(value.clone());
        }
        let template = self.derived.get(name)?;
        // A value that is made from another made one was refused when the file was read.
        let plain = Self { known: self.known.clone(), derived: Arc::default() };
        template.render(&plain).map(Value::String)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn values_keep_their_types_and_missing_ones_are_left_out() {
        let mut values = Values::default();
        values.set("n", json!(7));
        values.set("text", json!("a \"b\" /ü"));
        let render = |value| JsonTemplate::parse(value).unwrap().render(&values).unwrap();
        assert_eq!(
            render(
                json!({"a": "{{n}}", "b": "{{n|text}}", "c": "{{none}}", "d": ["x{{n}}", 1], "e": "{{{text}}"})
            ),
            json!({"a": 7, "b": "7", "d": ["x7", 1]})
        );
        assert_eq!(render(json!("{\"q\": {{text|json}}}")), json!("{\"q\": \"a \\\"b\\\" /ü\"}"));
        let url = Template::parse("/s/{{text}}?x={{none}}").unwrap().render_url(&values);
        assert_eq!(url, "/s/a%20%22b%22%20%2F%C3%BC?x=");
        assert!(Template::parse("{{a").is_err() && Template::parse("{{a|xml}}").is_err());
    }
}
