//! The text of the answers, one word per token. A query with more tokens than words repeats it.

/// The words of a text, each with a space behind it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ResponseText(Vec<String>);

/// The default text, which has 18 words.
pub const DEFAULT_TEXT: &str =
    "This is a simulated answer that streams word by word so that every single token can be counted.";

impl ResponseText {
    /// Splits a text at its white space. Returns `None` if it has no word.
    #[must_use]
    pub fn new(text: &str) -> Option<Self> {
        let words: Vec<_> = text.split_whitespace().map(|word| format!("{word} ")).collect();
        (!words.is_empty()).then_some(Self(words))
    }

    /// Returns the number of words.
    #[must_use]
    pub fn words(&self) -> u64 {
        self.0.len() as u64
    }

    /// Returns the content of token `index` (from 0) of `tokens`: a word and a space, and for the last token the word alone. So the
    /// joined contents of a query are the text.
    #[must_use]
    pub fn content(&self, index: u64, tokens: u64) -> &str {
        let content = &self.0[(index % self.words()) as usize];
        if index + 1 == tokens { content.trim_end() } else { content }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn contents_join_to_the_text() {
        let text = ResponseText::new(DEFAULT_TEXT).unwrap();
        assert_eq!(text.words(), 18);
        let joined: String = (0..18).map(|k| text.content(k, 18)).collect();
        assert_eq!(joined, DEFAULT_TEXT);
        let short = ResponseText::new(" a  b\n").unwrap();
        assert_eq!((0..5).map(|k| short.content(k, 5)).collect::<String>(), "a b a b a");
        assert_eq!(ResponseText::new(" \n"), None);
    }
}
