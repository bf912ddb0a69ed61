use super::read::{parse_bytes, parse_duration};
use super::*;

fn map(node: &Node) -> &[Entry] {
    match &node.value {
        Value::Map(entries) => entries,
        other => panic!("{other:?}"),
    }
}

#[test]
fn scalars_stay_as_written_and_know_their_place() {
    let tree = parse("a: 007\nb:\n  - 1e3\n  - 'true'\n  - ~\n").unwrap();
    let entries = map(&tree);
    assert_eq!(entries[0].node.as_text(), Some("007"));
    assert_eq!(entries[0].node.at, Position { line: 1, column: 4 });
    let Value::List(items) = &entries[1].node.value else {
        panic!()
    };
    assert_eq!(items[0].as_text(), Some("1e3"));
    assert_eq!(
        items[1].value,
        Value::Scalar {
            text: "true".into(),
            plain: false
        }
    );
    assert!(items[2].is_null());
    assert_eq!(entries[1].at, Position { line: 2, column: 1 });
    assert_eq!(items[1].at, Position { line: 4, column: 5 });
}

#[test]
fn aliases_are_written_out_and_bounded() {
    let tree = parse("a: &x {k: v}\nb: *x\n").unwrap();
    let entries = map(&tree);
    assert_eq!(map(&entries[1].node)[0].node.as_text(), Some("v"));
    assert_eq!(entries[1].node.at, Position { line: 2, column: 4 });

    let mut bomb = "a0: &a0 [x,x,x,x,x,x,x,x,x,x]\n".to_owned();
    for i in 1..9 {
        let each = format!("*a{}", i - 1);
        bomb += &format!("a{i}: &a{i} [{}]\n", vec![each; 10].join(","));
    }
    assert!(parse(&bomb).unwrap_err().1.contains("more than"));
}

#[test]
fn what_is_no_yaml_is_an_error_with_its_place() {
    let (at, message) = parse("a: [1, 2\nb: 3\n").unwrap_err();
    assert_eq!(at.line, 2);
    assert!(message.starts_with("this is not valid YAML: "), "{message}");
    assert!(parse("a: 1\n---\nb: 2\n").unwrap_err().1.contains("second"));
    assert!(parse("").unwrap().is_null());
}

#[test]
fn durations_and_sizes() {
    assert_eq!(parse_duration("250ms").unwrap().as_millis(), 250);
    assert_eq!(parse_duration("7d").unwrap().as_secs(), 604_800);
    for bad in [
        "",
        "5",
        "m",
        "5 m",
        "-5m",
        "1.5h",
        "99999999999999999999d",
        "18446744073709551615d",
    ] {
        assert_eq!(parse_duration(bad), None, "{bad}");
    }
    assert_eq!(parse_bytes("64MiB"), Some(64 << 20));
    assert_eq!(parse_bytes("500000"), Some(500_000));
    assert_eq!(parse_bytes("64 mb"), None);
}
