//! Column names: what BigQuery takes, and how a JSON key becomes one.

/// Longest column name.
pub const MAX_LENGTH: usize = 300;

/// Prefixes that BigQuery keeps for itself, compared without regard to case.
const RESERVED: [&str; 9] = [
    "_TABLE_",
    "_FILE_",
    "_PARTITION",
    "_ROW_TIMESTAMP",
    "__ROOT__",
    "_COLIDENTIFIER",
    "_CHANGE_TYPE",
    "_CHANGE_SEQUENCE_NUMBER",
    "_CHANGE_TIMESTAMP",
];

/// Whether the name can be a column's.
///
/// # Errors
/// Why not, as a clause.
pub fn check(name: &str) -> Result<(), String> {
    if name.is_empty() {
        return Err("the name is empty".into());
    }
    if name.chars().count() > MAX_LENGTH {
        return Err(format!("the name is longer than {MAX_LENGTH} characters"));
    }
    if !name.starts_with(|c: char| c == '_' || c.is_ascii_alphabetic()) {
        return Err("the name must start with a letter or underscore".into());
    }
    if let Some(c) = name
        .chars()
        .find(|c| !(*c == '_' || c.is_ascii_alphanumeric()))
    {
        return Err(format!(
            "the name contains `{c}`; use letters, digits and underscores"
        ));
    }
    let upper = name.to_ascii_uppercase();
    match RESERVED.iter().find(|p| upper.starts_with(*p)) {
        Some(prefix) => Err(format!(
            "BigQuery reserves names that start with `{prefix}`"
        )),
        None => Ok(()),
    }
}

/// The column name for a JSON key: every character that is no ASCII letter, digit or underscore
/// becomes an underscore; a leading digit or reserved prefix gets one in front; cut to
/// [`MAX_LENGTH`]. The same key always gives the same name.
pub fn normalize(key: &str) -> String {
    let mut name: String = key
        .chars()
        .map(|c| if c.is_ascii_alphanumeric() { c } else { '_' })
        .take(MAX_LENGTH)
        .collect();
    if !name.starts_with(|c: char| c == '_' || c.is_ascii_alphabetic()) {
        name.insert(0, '_');
    }
    let upper = name.to_ascii_uppercase();
    if RESERVED.iter().any(|p| upper.starts_with(p)) {
        name.insert(0, 'x');
    }
    name.truncate(MAX_LENGTH);
    name
}

/// [`normalize`] over sibling keys, made unique without regard to case: the later of two alike gets
/// `_2`, `_3`… The order of `keys` decides; sort them first where their order may vary.
pub fn normalize_all<'a>(keys: impl IntoIterator<Item = &'a str>) -> Vec<String> {
    let mut taken = std::collections::HashSet::new();
    keys.into_iter()
        .map(|key| {
            let base = normalize(key);
            let mut name = base.clone();
            let mut n = 2;
            while !taken.insert(name.to_ascii_lowercase()) {
                let suffix = format!("_{n}");
                name = format!(
                    "{}{suffix}",
                    &base[..base.len().min(MAX_LENGTH - suffix.len())]
                );
                n += 1;
            }
            name
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn names() {
        assert_eq!(normalize("a.b"), "a_b");
        assert_eq!(normalize("1st"), "_1st");
        assert_eq!(normalize(""), "_");
        assert_eq!(normalize("_PARTITIONTIME"), "x_PARTITIONTIME");
        assert_eq!(
            normalize_all(["ID", "id", "a.b", "a_b"]),
            ["ID", "id_2", "a_b", "a_b_2"]
        );
    }

    proptest! {
        #[test]
        fn normalized_names_are_valid_and_unique(keys in proptest::collection::vec(".{0,320}", 0..12)) {
            let names = normalize_all(keys.iter().map(String::as_str));
            for name in &names {
                prop_assert!(check(name).is_ok(), "{name}: {:?}", check(name));
            }
            let lower: std::collections::HashSet<_> = names.iter().map(|n| n.to_ascii_lowercase()).collect();
            prop_assert_eq!(lower.len(), names.len());
        }
    }
}
