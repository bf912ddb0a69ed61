//! Column names: what BigQuery takes, and which column a JSON key's value goes to.
//!
//! Several keys of one object may come to the same name: `a.b` and `a_b`, `ID` and `id`. Each gets a
//! column of its own. A name that somebody has written down ([`Spoken`]) is the key's that is spelled so;
//! of any other name the key that is spelled like the column has it; of others the first by the
//! alphabet; the rest get a name that ends with a hash of the key ([`hashed`]), which depends on
//! nothing but the key. [`assign`] and the decoder go by this rule, against the columns that a table
//! already has.

use std::cmp::Ordering;
use std::collections::{BTreeMap, BTreeSet, HashSet};
use std::fmt::Write as _;

use sha2::{Digest, Sha256};

/// Longest column name.
pub const MAX_LENGTH: usize = 300;

/// Most names that a message lists.
const MOST_LISTED: usize = 20;

/// Longest name in a message, in characters.
const LONGEST_SHOWN: usize = 200;

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

/// The column name for a key whose own name belongs to another: [`normalize`] and eight digits of the
/// key's SHA-256.
pub fn hashed(key: &str) -> String {
    let mut suffix = String::from("_");
    for byte in &Sha256::digest(key)[..4] {
        let _ = write!(suffix, "{byte:02x}");
    }
    suffixed(&normalize(key), &suffix)
}

/// A name with something behind it, cut in front of it to [`MAX_LENGTH`].
pub fn suffixed(name: &str, suffix: &str) -> String {
    let cut = name.len().min(MAX_LENGTH.saturating_sub(suffix.len()));
    format!("{}{suffix}", name.get(..cut).unwrap_or(name))
}

/// A field as a message names it: `` `a.b` ``, or in words where its name is empty.
pub fn shown(field: &str) -> String {
    match field {
        "" => "a field with an empty name".to_owned(),
        _ => format!(
            "`{}`",
            field.chars().take(LONGEST_SHOWN).collect::<String>()
        ),
    }
}

/// Fields as a message lists them: the first ones, and how many more.
pub fn listed(fields: &[String]) -> String {
    let first: Vec<String> = fields.iter().take(MOST_LISTED).map(|f| shown(f)).collect();
    match fields.len().saturating_sub(MOST_LISTED) {
        0 => first.join(", "),
        more => format!("{} and {more} more", first.join(", ")),
    }
}

/// The names that somebody has written down for an object's columns, such as those of a primary key: each
/// belongs to the key that is spelled so, whatever other keys come to it.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Spoken {
    names: Vec<Vec<String>>,
    /// Of columns that no key is for: their values come from elsewhere.
    given: Vec<String>,
}

impl Spoken {
    /// Of names, dotted where they are of columns inside RECORDs, and of columns whose values are given. Of
    /// two that differ in case only, the first counts.
    pub fn new(names: impl IntoIterator<Item = String>, given: Vec<String>) -> Self {
        let path = |name: String| name.split('.').map(str::to_owned).collect();
        Self {
            names: names.into_iter().map(path).collect(),
            given,
        }
    }

    /// Whether somebody has written down a column of that name, in whatever case.
    pub fn has(&self, column: &str) -> bool {
        self.spelling(column).is_some()
    }

    /// The names of columns inside a RECORD.
    pub fn within(&self, record: &str) -> Self {
        let inside = |path: &Vec<String>| match path.split_first() {
            Some((first, rest)) if first.eq_ignore_ascii_case(record) && !rest.is_empty() => {
                Some(rest.to_vec())
            }
            _ => None,
        };
        Self {
            names: self.names.iter().filter_map(inside).collect(),
            given: Vec::new(),
        }
    }

    /// A column's name as it was written down.
    fn spelling(&self, column: &str) -> Option<&str> {
        let firsts = self.names.iter().filter_map(|path| path.first());
        firsts
            .chain(&self.given)
            .find(|name| name.eq_ignore_ascii_case(column))
            .map(String::as_str)
    }

    /// Whether the key is spelled as a column that somebody has written down.
    fn is_key(&self, key: &str) -> bool {
        self.spelling(key) == Some(key)
    }

    /// Whether the column's values are given, so that a key which only comes to its name has none of it.
    fn is_given(&self, column: &str) -> bool {
        self.given.iter().any(|n| n.eq_ignore_ascii_case(column))
    }

    /// Columns that are there, each spelled as its own key is.
    pub(super) fn keys_of<'a>(&'a self, there: &[&'a str]) -> impl Iterator<Item = &'a str> {
        there.iter().map(|n| self.spelling(n).unwrap_or(n))
    }
}

/// How well a key fits a column's name.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Fit {
    /// The column is called what the key normalizes to: another key may have a better claim.
    Alike,
    /// The column is called like it: no key has a better claim but one that is [`Spoken`] of.
    Own,
    /// The column is called by its [`hashed`] name, or somebody has written it down as the key is spelled.
    Sure,
}

/// The first of `names` that is a key's, and how well it fits.
pub fn find<'a>(
    key: &str,
    names: impl Iterator<Item = &'a str> + Clone,
    spoken: &Spoken,
) -> Option<(usize, Fit)> {
    let like = |name: &str| names.clone().position(|n| n.eq_ignore_ascii_case(name));
    if spoken.is_key(key)
        && let Some(i) = like(key)
    {
        return Some((i, Fit::Sure));
    }
    if let Some(i) = like(&hashed(key)) {
        return Some((i, Fit::Sure));
    }
    let name = normalize(key);
    let own = names.clone().position(|n| n == key);
    let found = match own {
        Some(i) => Some((i, Fit::Own)),
        None => like(&name).map(|i| (i, Fit::Alike)),
    };
    found.filter(|_| !spoken.is_given(&name))
}

/// Which of two keys has the better claim to a name that both normalize to.
pub fn better<'a>(a: &'a str, b: &'a str) -> &'a str {
    let rank = |key: &'a str| (normalize(key) != key, key);
    if rank(a) <= rank(b) { a } else { b }
}

/// Where a key's value goes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Place {
    /// Into the column at this position.
    There(usize),
    /// Into one of this name that is still to be made.
    New(String),
}

/// Where the values of sibling keys go, beside columns that are there. The order of `keys` does not
/// matter. A key is missing from the answer when even its hashed name is another's.
pub fn assign<'a>(
    keys: impl IntoIterator<Item = &'a str>,
    there: &[&str],
    spoken: &Spoken,
) -> BTreeMap<&'a str, Place> {
    let keys: BTreeSet<&str> = keys.into_iter().collect();
    let mut found = BTreeMap::new();
    // Keys that come to the same name, by column or by the name to be, and how well each fits.
    let mut alike: BTreeMap<Result<usize, String>, Vec<(&str, Fit)>> = BTreeMap::new();
    let mut others = Vec::new();
    for key in keys {
        match find(key, there.iter().copied(), spoken) {
            Some((i, fit)) => alike.entry(Ok(i)).or_default().push((key, fit)),
            None => {
                let name = normalize(key);
                let fit = match spoken.is_key(key) {
                    true => Fit::Sure,
                    false => Fit::Alike,
                };
                match fit == Fit::Alike && spoken.is_given(&name) {
                    true => others.push(key),
                    false => {
                        let entry = alike.entry(Err(name.to_ascii_lowercase()));
                        entry.or_default().push((key, fit));
                    }
                }
            }
        }
    }
    let mut taken: HashSet<String> = there.iter().map(|n| n.to_ascii_lowercase()).collect();
    for (name, keys) in alike {
        let best = keys.iter().copied().reduce(|a, b| match a.1.cmp(&b.1) {
            Ordering::Greater => a,
            Ordering::Less => b,
            Ordering::Equal if better(a.0, b.0) == a.0 => a,
            Ordering::Equal => b,
        });
        let best = best.map_or("", |(key, _)| key);
        let place = match name {
            Ok(i) => Some(Place::There(i)),
            Err(name) => taken.insert(name).then(|| Place::New(normalize(best))),
        };
        for (key, _) in keys {
            match &place {
                Some(place) if key == best => {
                    found.insert(key, place.clone());
                }
                _ => others.push(key),
            }
        }
    }
    for key in others {
        let name = hashed(key);
        if taken.insert(name.to_ascii_lowercase()) {
            found.insert(key, Place::New(name));
        }
    }
    found
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn new(keys: &[&str]) -> Vec<String> {
        let places = assign(keys.iter().copied(), &[], &Spoken::default());
        keys.iter()
            .map(|k| match &places[k] {
                Place::New(name) => name.clone(),
                Place::There(_) => panic!("{k}"),
            })
            .collect()
    }

    #[test]
    fn fields_are_shown_in_words_where_their_name_is_empty() {
        assert_eq!(shown("a.b"), "`a.b`");
        assert_eq!(shown(""), "a field with an empty name");
        assert_eq!(shown(&"x".repeat(1_000)).len(), LONGEST_SHOWN + 2);
    }

    #[test]
    fn a_list_of_fields_ends_with_how_many_more() {
        let names = |n: usize| (0..n).map(|i| format!("c{i}")).collect::<Vec<_>>();
        assert_eq!(listed(&names(2)), "`c0`, `c1`");
        assert!(listed(&names(20)).ends_with("`c18`, `c19`"));
        assert!(listed(&names(23)).ends_with("`c18`, `c19` and 3 more"));
    }

    #[test]
    fn names() {
        assert_eq!(normalize("a.b"), "a_b");
        assert_eq!(normalize("1st"), "_1st");
        assert_eq!(normalize(""), "_");
        assert_eq!(normalize("_PARTITIONTIME"), "x_PARTITIONTIME");
        assert_eq!(normalize(".table_x"), "x_table_x");
        assert_eq!(normalize("größe"), "gr__e");
        assert_eq!(normalize(&"k".repeat(301)), "k".repeat(300));
        assert_eq!(hashed("a.b"), "a_b_2e7336dc");
        assert_eq!(hashed(&"k".repeat(301)).len(), 300);
    }

    #[test]
    fn each_of_several_alike_gets_a_name_of_its_own() {
        assert_eq!(new(&["a.b"]), ["a_b"]);
        assert_eq!(new(&["a.b", "a_b"]), ["a_b_2e7336dc", "a_b"]);
        assert_eq!(new(&["a_b", "a.b", "a-b"])[1], "a_b_2e7336dc");
        assert_eq!(new(&["ID", "id"]), ["ID".to_owned(), hashed("id")]);
        let names = new(&["\u{1F600}", "\u{1F389}", "", "_"]);
        assert_eq!(names[3], "_");
        assert!(
            names[..3]
                .iter()
                .all(|n| n.starts_with("__") && n.len() == 10)
        );
        let long = [
            format!("{}1", "k".repeat(300)),
            format!("{}2", "k".repeat(300)),
        ];
        let names = new(&[&long[0], &long[1]]);
        assert_eq!(names[0], "k".repeat(300));
        assert_eq!(names[1], hashed(&long[1]));
    }

    #[test]
    fn columns_that_are_there_keep_their_keys() {
        let places = assign(
            ["id", "ID", "a.b", "a-b", "new"],
            &["ID", "a_b"],
            &Spoken::default(),
        );
        assert_eq!(places["ID"], Place::There(0));
        assert_eq!(places["id"], Place::New(hashed("id")));
        // Neither is spelled like the column: the first by the alphabet has it.
        assert_eq!(places["a-b"], Place::There(1));
        assert_eq!(places["a.b"], Place::New(hashed("a.b")));
        assert_eq!(places["new"], Place::New("new".into()));
        // In a later run, alone: not into the column of the other.
        let places = assign(
            ["id", "a.b"],
            &["ID", "a_b", &hashed("id"), &hashed("a.b")],
            &Spoken::default(),
        );
        assert_eq!(places["id"], Place::There(2));
        assert_eq!(places["a.b"], Place::There(3));
    }

    #[test]
    fn names_that_somebody_has_written_down_are_theirs() {
        let id = Spoken::new(["id".to_owned()], Vec::new());
        let places = assign(["ID", "id", "Id"], &[], &id);
        assert_eq!(places["id"], Place::New("id".into()));
        assert_eq!(places["ID"], Place::New(hashed("ID")));
        assert_eq!(places["Id"], Place::New(hashed("Id")));
        // A table that was made when there was no other: the column changes hands, for BigQuery tells no
        // case apart.
        let places = assign(["ID", "id"], &["ID"], &id);
        assert_eq!(places["id"], Place::There(0));
        assert_eq!(places["ID"], Place::New(hashed("ID")));
        // Where it is the only one, a key of another case does.
        assert_eq!(assign(["ID"], &["id"], &id)["ID"], Place::There(0));
        assert_eq!(assign(["ID"], &[], &id)["ID"], Place::New("ID".into()));
        // But not once it has a column of its own, alone as it may come.
        let hash = hashed("ID");
        assert_eq!(assign(["ID"], &["id", &hash], &id)["ID"], Place::There(1));
        assert_eq!(assign(["ID"], &["ID", &hash], &id)["ID"], Place::There(1));
        // Of two spellings the first counts.
        let both = Spoken::new(["id".to_owned(), "ID".to_owned()], Vec::new());
        assert_eq!(assign(["ID", "id"], &["id"], &both)["id"], Place::There(0));
        // Of columns that are filled otherwise no other key gets the name.
        let given = Spoken::new([], vec!["shop".to_owned()]);
        assert_eq!(
            assign(["Shop"], &[], &given)["Shop"],
            Place::New(hashed("Shop"))
        );
        assert_eq!(
            assign(["Shop"], &["shop"], &given)["Shop"],
            Place::New(hashed("Shop"))
        );
        assert_eq!(
            assign(["shop"], &[], &given)["shop"],
            Place::New("shop".into())
        );
        // And inside of RECORDs.
        let nested = Spoken::new(["meta.at".to_owned()], Vec::new());
        assert!(nested.has("META") && !nested.has("at"));
        assert!(nested.within("Meta").has("at") && !nested.within("other").has("at"));
    }

    proptest! {
        #[test]
        fn assigned_names_are_valid_unique_and_independent_of_order(
            mut keys in proptest::collection::hash_set(prop_oneof![".{0,320}", "[aA][._-][bB]?"], 0..12)
                .prop_map(|k| k.into_iter().collect::<Vec<_>>()),
            turn in 0usize..12,
            names in proptest::collection::vec("[aA]_[bB]?", 0..3),
        ) {
            let spoken = Spoken::new(names.clone(), Vec::new());
            let places = assign(keys.iter().map(String::as_str), &[], &spoken);
            prop_assert_eq!(places.len(), keys.len());
            let mut lower = HashSet::new();
            let mut made = Vec::new();
            for (key, place) in &places {
                let Place::New(name) = place else { panic!() };
                if spoken.is_key(key) {
                    prop_assert_eq!(name, key);
                }
                prop_assert!(check(name).is_ok(), "{name}: {:?}", check(name));
                prop_assert!(lower.insert(name.to_ascii_lowercase()));
                made.push(name.clone());
            }
            // Against the columns that were made of them, each key finds its own again, and so do fewer.
            let there: Vec<&str> = made.iter().map(String::as_str).collect();
            let own = |place: &Place| match place {
                Place::New(name) => name.clone(),
                Place::There(i) => made[*i].clone(),
            };
            for (key, place) in assign(keys.iter().map(String::as_str), &there, &spoken) {
                prop_assert_eq!(own(&place), own(&places[key]));
            }
            let middle = turn.min(keys.len());
            let before: BTreeMap<String, Place> =
                places.into_iter().map(|(k, p)| (k.to_owned(), p)).collect();
            keys.rotate_left(middle);
            keys.reverse();
            let after = assign(keys.iter().map(String::as_str), &[], &spoken);
            for (key, place) in after {
                prop_assert_eq!(&place, &before[key]);
            }
        }
    }
}
