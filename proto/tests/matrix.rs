//! The table of methods and roles in `docs/security.md` is the one that the coordinators go by.

#![allow(clippy::unwrap_used, clippy::expect_used)]

use proto::needs::METHODS;
use std::fmt::Write as _;
use types::{CoordinatorId, Grant, Principal, Role, WorkerId, Workspace};

const BEGIN: &str = "<!-- methods begin -->\n";
const END: &str = "<!-- methods end -->\n";

fn table() -> String {
    let user = Principal::User { name: "u".into(), token: "t".into() };
    let worker = WorkerId::new("w").map(Principal::Worker).unwrap();
    let mut text = String::from("| method | stranger | worker | coordinator |");
    for role in Role::ALL {
        write!(text, " {role} |").unwrap();
    }
    text.push_str("\n|---|---|---|---|");
    text.push_str(&"---|".repeat(Role::ALL.len()));
    text.push('\n');
    for method in METHODS {
        let nodes = [Principal::Stranger, worker.clone(), Principal::Coordinator(CoordinatorId(1))];
        let word = |yes| if yes { " yes |" } else { " |" };
        let mut cells: Vec<&str> = nodes.iter().map(|node| word(method.allows(node, &[]))).collect();
        cells.extend(Role::ALL.iter().copied().map(|role| {
            let there = Grant { role: role.into(), workspace: Some(Workspace::default()) };
            let yes = method.allows(&user, [&Grant::from(role)]);
            if yes && method.allows(&user, [&there]) { " yes W |" } else { word(yes) }
        }));
        let path = method.path.trim_start_matches('/').replacen("muster.", "", 1);
        write!(text, "| `{path}` |").unwrap();
        text.extend(cells);
        text.push('\n');
    }
    text
}

#[test]
fn the_documented_table_is_what_is_checked() {
    let page = concat!(env!("CARGO_MANIFEST_DIR"), "/../docs/security.md");
    let page = std::fs::read_to_string(page).unwrap();
    let (_, rest) = page.split_once(BEGIN).expect("the page has the table's beginning");
    let (documented, _) = rest.split_once(END).expect("the page has the table's end");
    assert!(documented == table(), "put this between the marks of docs/security.md:\n{}", table());
}
