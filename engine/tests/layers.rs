//! Layers point one way: a module uses only modules that stand before it in the list, or beside it in the same group.

#![allow(missing_docs, clippy::unwrap_used)]

use std::{collections::BTreeSet, fs, path::Path};

/// From the bottom up. Modules of one group may use one another: they are one concept in several files.
const LAYERS: &[&[&str]] = &[
    // For tests alone.
    &["rng"],
    &["units"],
    &["sabotage"],
    &["error"],
    &["info"],
    &["upkeep"],
    &["pace"],
    &["options"],
    &["names"],
    &["stats"],
    &["storage"],
    &["reactor"],
    &["format"],
    &["qos"],
    &["space"],
    &["versions"],
    &["tree"],
    &["journal"],
    &["sweep"],
    &["state"],
    &["gate", "locks", "writeback"],
    // The open pool: what is shared, and the tasks that keep it going.
    &["core", "gather", "commit", "checkpoint", "background", "drain", "replay"],
    &["volume"],
    &["admin"],
    &["limiting"],
    &["snapshots"],
    &["filling"],
    &["check"],
    &["recover"],
    &["repair"],
    &["open"],
    &["scrub"],
    &["regroup"],
    &["handle"],
    &["fuzzing"],
    &["pieces"],
    &["sim"],
];

fn level(module: &str) -> Option<usize> {
    LAYERS.iter().position(|group| group.contains(&module))
}

/// Modules of this crate that a source text names.
fn used(text: &str) -> BTreeSet<String> {
    let code = text.split("#[cfg(test)]").next().unwrap();
    let mut found = BTreeSet::new();
    for part in code.split("crate::").skip(1) {
        let names = match part.strip_prefix('{') {
            // use crate::{a::b, c::{d, e}}: the names at the first depth.
            Some(list) => {
                let mut depth = 0;
                let mut names = vec![String::new()];
                for c in list.chars() {
                    match c {
                        '{' => depth += 1,
                        '}' if depth == 0 => break,
                        '}' => depth -= 1,
                        ',' if depth == 0 => names.push(String::new()),
                        _ => names.last_mut().unwrap().push(c),
                    }
                }
                names
            }
            None => vec![part.to_owned()],
        };
        for name in names {
            let first: String = name.trim().chars().take_while(|c| c.is_alphanumeric() || *c == '_').collect();
            if !first.is_empty() {
                found.insert(first);
            }
        }
    }
    found
}

fn check(dir: &Path, module: Option<&str>, files: &mut usize) {
    for entry in fs::read_dir(dir).unwrap() {
        let path = entry.unwrap().path();
        let stem = path.file_stem().unwrap().to_str().unwrap().to_owned();
        if path.is_dir() {
            check(&path, Some(module.unwrap_or(&stem)), files);
            continue;
        }
        if module.is_none() && stem == "lib" {
            continue;
        }
        let module = module.unwrap_or(&stem);
        let own = level(module).unwrap_or_else(|| panic!("module {module} has no place in the list"));
        *files += 1;
        for name in used(&fs::read_to_string(&path).unwrap()) {
            if let Some(other) = level(&name) {
                assert!(other <= own, "{} uses {name}, which stands above it", path.display());
            }
        }
    }
}

#[test]
fn modules_use_only_what_stands_before_them() {
    let mut files = 0;
    check(&Path::new(env!("CARGO_MANIFEST_DIR")).join("src"), None, &mut files);
    assert!(files > 30, "only {files} files were read");
}

#[test]
fn the_reader_sees_what_is_used() {
    let text =
        "use crate::{\n    a::{b, c},\n    d,\n};\nfn f() { crate::e::g() }\n#[cfg(test)]\nmod t { use crate::h; }";
    assert_eq!(used(text).into_iter().collect::<Vec<_>>(), ["a", "d", "e"]);
}
