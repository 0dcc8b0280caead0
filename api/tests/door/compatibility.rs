//! `node/docs/compatibility.md` against the table of routes, and against the tests that it names.

use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};

use conclave_api::router::{ROUTES, named};
use http::Method;

fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).parent().unwrap().to_owned()
}

fn page() -> String {
    fs::read_to_string(root().join("node/docs/compatibility.md")).unwrap()
}

/// The rows of the table under a heading, without the two lines of its head.
fn rows(page: &str, heading: &str) -> Vec<Vec<String>> {
    let section = page.split(heading).nth(1).unwrap_or_else(|| panic!("no heading {heading:?}"));
    let section = section.split("\n## ").next().unwrap();
    let lines = section.lines().filter(|line| line.starts_with('|')).skip(2);
    lines
        .map(|line| {
            let cells = line.trim_matches('|').split(" | ");
            cells.map(|cell| cell.trim().to_owned()).collect()
        })
        .collect()
}

fn bare(cell: &str) -> &str {
    cell.trim_matches('`')
}

/// What a cell of the last column names: a file, and a test in it or the title of a scenario.
fn evidence(cell: &str) -> Vec<(String, Option<String>)> {
    cell.split(", `")
        .map(|part| {
            let part = part.trim_start_matches('`');
            let (file, rest) = part.split_once('`').unwrap_or((part, ""));
            if let Some((file, test)) = file.split_once("::") {
                return (file.to_owned(), Some(format!("fn {test}(")));
            }
            let title = rest.trim().trim_matches('"');
            (file.to_owned(), (!title.is_empty()).then(|| format!("=== {title}\n")))
        })
        .collect()
}

#[test]
fn every_route_has_its_row_and_every_row_its_route() {
    let page = page();
    let rows = rows(&page, "## Routes");
    let mut known = BTreeSet::new();
    for row in &rows {
        let [route, name, section, status, shown_by] = &row[..] else {
            panic!("a row of five cells: {row:?}");
        };
        assert!(known.insert(bare(route).to_owned()), "{route} stands twice");
        assert!(section == "-" || section.starts_with('2'), "{route}: section {section}");
        let found = ROUTES.iter().find(|known| format!("{known:?}") == bare(route));
        match status.as_str() {
            "planned" => assert!(found.is_none(), "{route} is there, and called planned"),
            "done" => {
                let found = found.unwrap_or_else(|| panic!("{route} is gone"));
                assert_eq!(found.name, bare(name), "the name of {route}");
                assert!(!evidence(shown_by).is_empty(), "{route} is shown by nothing");
            }
            other => panic!("{route}: status {other}"),
        }
    }
    for route in ROUTES {
        let text = format!("{route:?}");
        assert!(known.contains(&text), "`{text}` ({}) has no row in compatibility.md", route.name);
    }
}

#[test]
fn every_test_named_in_the_matrix_exists_and_is_about_it() {
    let page = page();
    let mut shown: Vec<(String, String)> = Vec::new();
    for row in rows(&page, "## Routes").iter().filter(|row| row[3] == "done") {
        shown.push((bare(&row[1]).to_owned(), row[4].clone()));
    }
    for heading in ["## Policy statements", "## Clients"] {
        for row in rows(&page, heading).iter().filter(|row| row[2] == "done") {
            shown.push((row[0].clone(), row[3].clone()));
        }
    }
    for (what, cell) in shown {
        for (file, wanted) in evidence(&cell) {
            let text = fs::read_to_string(root().join(&file));
            let text = text.unwrap_or_else(|error| panic!("{what}: {file}: {error}"));
            if let Some(wanted) = wanted {
                assert!(text.contains(&wanted), "{what}: {file} has no {wanted:?}");
            } else if file.starts_with("api/tests/door/scenarios/") && what.contains('.') {
                assert!(text.lines().any(|line| asks_for(line, &what)), "{what}: not in {file}");
            }
        }
    }
}

/// Whether a line of a scenario is a request that finds the route of that name.
fn asks_for(line: &str, name: &str) -> bool {
    let Some(request) = line.strip_prefix("> ") else { return false };
    let mut words = request.split(' ');
    let method = Method::from_bytes(words.next().unwrap().as_bytes()).unwrap();
    let (path, query) = {
        let uri = words.next().unwrap();
        uri.split_once('?').unwrap_or((uri, ""))
    };
    named(&method, path, query) == Some(name)
}
