//! The target files that the program brings along.

/// A target file that the program brings along.
#[derive(Clone, Copy, Debug)]
pub struct Builtin {
    /// Its name, with which `--target` selects it.
    pub name: &'static str,
    /// What it describes.
    pub about: &'static str,
    /// Its text.
    pub text: &'static str,
}

/// All of them.
pub const BUILTIN: [Builtin; 1] = [Builtin {
    name: "centrifugo",
    about: "Centrifugo 4 and later, JSON protocol over a WebSocket, with recovery",
    text: include_str!("builtin/centrifugo.toml"),
}];

/// Returns the built-in file of this name.
#[must_use]
pub fn builtin(name: &str) -> Option<Builtin> {
    BUILTIN.into_iter().find(|file| file.name == name)
}
