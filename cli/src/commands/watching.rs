//! `--watch`: asks again and again, and shows an answer when it differs; a lost leader is a line, not the end.

use super::Session;
use crate::failure::Exit;
use crate::output::{Format, Output, note, write_stdout};
use serde_json::Value;
use std::time::Duration;

/// Often enough to feel live, seldom enough to cost nothing.
const EVERY: Duration = Duration::from_secs(1);

/// One answer: its value, and how it looks as a table.
pub struct Shown {
    /// For JSON and YAML.
    pub value: Value,
    /// For people.
    pub table: Box<dyn Fn(&Output) -> String>,
}

/// Prints what `ask` answers: once, or with `watch` until interrupted.
pub async fn show<F, Fut>(session: &Session, watch: bool, ask: F) -> anyhow::Result<Exit>
where
    F: Fn() -> Fut,
    Fut: Future<Output = Result<Shown, client::Error>>,
{
    if !watch {
        let shown = ask().await?;
        session.output.print(&shown.value, |output| (shown.table)(output))?;
        return Ok(Exit::Success);
    }
    tokio::select! {
        ended = repeat(session, ask) => ended,
        interrupted = tokio::signal::ctrl_c() => {
            interrupted?;
            Ok(Exit::Interrupted)
        }
    }
}

async fn repeat<F, Fut>(session: &Session, ask: F) -> anyhow::Result<Exit>
where
    F: Fn() -> Fut,
    Fut: Future<Output = Result<Shown, client::Error>>,
{
    let mut last = None;
    let mut answered = false;
    loop {
        match ask().await {
            Ok(shown) => {
                answered = true;
                let text = match session.output.format {
                    Format::Table => (shown.table)(&session.output),
                    _ => session.output.render(&shown.value, |_| String::new()),
                };
                if last.as_ref() != Some(&text) {
                    write_stdout(framed(&session.output, &text, &shown.value).as_bytes())?;
                    last = Some(text);
                }
            }
            // It may come back; but a cluster that never answered is an error like any other.
            Err(error) if answered && error.retry() != client::Retry::Never => note(&format!("{error}")),
            Err(error) => return Err(error.into()),
        }
        tokio::time::sleep(EVERY).await;
    }
}

/// On a terminal the screen is drawn anew; elsewhere each change follows the last: JSON one a line, YAML one a document.
fn framed(output: &Output, text: &str, value: &Value) -> String {
    match output.format {
        Format::Json if !output.is_terminal => format!("{value}\n"),
        Format::Yaml if !output.is_terminal => format!("---\n{text}"),
        Format::Table if !output.is_terminal => format!("{text}\n"),
        _ => {
            let room = output.height.map_or(usize::MAX, |height| height.saturating_sub(1));
            let fitting: Vec<&str> = text.lines().take(room).collect();
            format!("\x1b[2J\x1b[H{}\n", fitting.join("\n"))
        }
    }
}
