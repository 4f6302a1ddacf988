//! What commands print: tables for people, JSON or YAML for programs; colours only where someone sees them.

pub mod chart;
pub mod json;
pub mod table;
pub mod text;
pub mod yaml;

use clap::ValueEnum;
use serde_json::Value;
use std::io::{self, IsTerminal, Write};
pub use table::{Cell, Column, Table};

/// `--output`
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, ValueEnum)]
pub enum Format {
    /// For people.
    #[default]
    Table,
    /// Stable; snake_case names as in `muster.v1`.
    Json,
    /// The same values as JSON.
    Yaml,
}

/// `--color`
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, ValueEnum)]
pub enum ColorChoice {
    /// On a terminal, unless `NO_COLOR` is set and not empty, or the terminal is a dumb one.
    #[default]
    Auto,
    /// Always.
    Always,
    /// Never.
    Never,
}

/// Where output goes and how it looks; made once from the command line and the terminal.
#[derive(Clone, Debug)]
pub struct Output {
    /// Table, JSON or YAML.
    pub format: Format,
    /// Colours on stdout.
    pub color: bool,
    /// Columns of the terminal; nothing when stdout is not one.
    pub width: Option<usize>,
    /// Lines of the terminal.
    pub height: Option<usize>,
    /// Stdout is a terminal.
    pub is_terminal: bool,
    /// Stderr is a terminal.
    pub stderr_is_terminal: bool,
    /// Progress bars on stderr.
    pub bars: bool,
}

impl Output {
    /// Looks at the terminal.
    pub fn new(format: Format, color: ColorChoice) -> Self {
        let (is_terminal, stderr_is_terminal) = (io::stdout().is_terminal(), io::stderr().is_terminal());
        let no_color = daemon::environment::text("NO_COLOR");
        let term = daemon::environment::text("TERM");
        let size = terminal_size::terminal_size().filter(|_| is_terminal);
        Output {
            format,
            color: shows_colors(color, is_terminal, no_color.as_deref(), term.as_deref()),
            width: size.map(|(width, _)| usize::from(width.0)),
            height: size.map(|(_, height)| usize::from(height.0)),
            is_terminal,
            stderr_is_terminal,
            bars: shows_bars(stderr_is_terminal, term.as_deref()),
        }
    }

    /// The text of one answer in the chosen format; `table` is only called where a table is wanted.
    pub fn render(&self, value: &Value, table: impl FnOnce(&Self) -> String) -> String {
        match self.format {
            Format::Table => table(self),
            Format::Json => {
                let mut text = serde_json::to_string_pretty(value).unwrap_or_default();
                text.push('\n');
                text
            }
            Format::Yaml => yaml::render(value),
        }
    }

    /// Prints one answer in the chosen format.
    pub fn print(&self, value: &Value, table: impl FnOnce(&Self) -> String) -> anyhow::Result<()> {
        write_stdout(self.render(value, table).as_bytes())
    }

    /// Prints one item of a stream: a line of JSON, a YAML document, or a line of text.
    pub fn print_item(&self, value: &Value, line: impl FnOnce(&Self) -> String) -> anyhow::Result<()> {
        let text = match self.format {
            Format::Table => line(self),
            Format::Json => format!("{value}\n"),
            Format::Yaml => format!("---\n{}", yaml::render(value)),
        };
        write_stdout(text.as_bytes())
    }

    /// `text` in a style, where there are colours.
    pub fn paint(&self, style: anstyle::Style, text: &str) -> String {
        if self.color { format!("{style}{text}{style:#}") } else { text.to_owned() }
    }
}

/// Colours or not, for a stream. An empty variable counts as unset, as <https://no-color.org> has it.
fn shows_colors(choice: ColorChoice, is_terminal: bool, no_color: Option<&str>, term: Option<&str>) -> bool {
    match choice {
        ColorChoice::Always => true,
        ColorChoice::Never => false,
        ColorChoice::Auto => is_terminal && no_color.is_none_or(str::is_empty) && term != Some(DUMB),
    }
}

/// Bars are drawn over and over, with or without colours: where a terminal can do that.
fn shows_bars(is_terminal: bool, term: Option<&str>) -> bool {
    is_terminal && term != Some(DUMB)
}

/// `TERM` of a terminal that knows no control sequences.
const DUMB: &str = "dumb";

/// Writes and flushes; a reader that left is an error, not a panic.
pub fn write_stdout(bytes: &[u8]) -> anyhow::Result<()> {
    let mut stdout = io::stdout().lock();
    stdout.write_all(bytes)?;
    stdout.flush()?;
    Ok(())
}

/// A line on stderr, for people; nobody to read it is no fault.
pub fn note(text: &str) {
    let _ = writeln!(io::stderr(), "{text}");
}

/// Styles by meaning.
pub mod style {
    use anstyle::{AnsiColor, Style};

    /// Headings.
    pub const HEAD: Style = Style::new().bold();
    /// What matters less.
    pub const DIM: Style = Style::new().dimmed();
    /// Well.
    pub const GOOD: Style = AnsiColor::Green.on_default();
    /// Under way.
    pub const BUSY: Style = AnsiColor::Cyan.on_default();
    /// Look here.
    pub const WARN: Style = AnsiColor::Yellow.on_default();
    /// Wrong.
    pub const BAD: Style = AnsiColor::Red.on_default();

    /// Colours that tell series and ranks apart.
    pub fn series(index: usize) -> Style {
        const COLORS: [AnsiColor; 6] = [
            AnsiColor::Cyan,
            AnsiColor::Yellow,
            AnsiColor::Green,
            AnsiColor::Magenta,
            AnsiColor::Blue,
            AnsiColor::BrightRed,
        ];
        COLORS[index % COLORS.len()].on_default()
    }

    /// The style of a phase or state by its name.
    pub fn state(name: &str) -> Style {
        match name {
            "Running" | "Completed" | "ready" | "leader" => GOOD,
            "Queued" | "Starting" | "Preparing" | "Stopping" => BUSY,
            "CancelRequested" | "Canceled" | "cordoned" | "draining" | "set aside" => WARN,
            "Failed" | "lost" => BAD,
            _ => Style::new(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn colours_are_where_a_terminal_shows_them_and_nobody_said_no() {
        use ColorChoice::{Always, Auto, Never};
        for (choice, is_terminal, no_color, term, shown) in [
            (Auto, true, None, Some("xterm"), true),
            (Auto, true, None, None, true),
            (Auto, true, Some(""), Some("xterm"), true),
            (Auto, true, Some("1"), Some("xterm"), false),
            (Auto, true, Some("0"), Some("xterm"), false),
            (Auto, true, None, Some("dumb"), false),
            (Auto, false, None, Some("xterm"), false),
            (Auto, false, Some("1"), Some("dumb"), false),
            (Always, false, Some("1"), Some("dumb"), true),
            (Always, true, Some("1"), Some("xterm"), true),
            (Never, true, None, Some("xterm"), false),
            (Never, false, None, None, false),
        ] {
            let row = (choice, is_terminal, no_color, term);
            assert_eq!(shows_colors(choice, is_terminal, no_color, term), shown, "{row:?}");
        }
    }

    #[test]
    fn bars_are_where_a_terminal_can_draw_them_again() {
        for (is_terminal, term, shown) in [
            (true, Some("xterm"), true),
            (true, None, true),
            (true, Some("dumb"), false),
            (false, Some("xterm"), false),
            (false, None, false),
        ] {
            assert_eq!(shows_bars(is_terminal, term), shown, "{is_terminal} {term:?}");
        }
    }
}
