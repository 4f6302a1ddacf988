//! The one door to the process environment; read at start, then handed on as values.

use std::ffi::OsString;

/// The variable's value; nothing when it is unset, empty or not UTF-8.
#[allow(clippy::disallowed_methods)]
pub fn text(name: &str) -> Option<String> {
    std::env::var(name).ok().filter(|value| !value.is_empty())
}

/// The whole environment of this process, for a child that inherits it.
#[allow(clippy::disallowed_methods)]
pub fn all() -> Vec<(OsString, OsString)> {
    std::env::vars_os().collect()
}
