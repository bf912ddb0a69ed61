use super::*;

#[test]
fn names_are_what_google_takes() {
    assert_eq!(name("drawoff-", "acme", "", JOB_NAME), "drawoff-acme");
    assert_eq!(
        name("drawoff-", "Acme_EU", "-run", ACCOUNT_ID),
        "drawoff-acme-eu-run"
    );
    let long = |source: &str| name("drawoff-", source, "-start", ACCOUNT_ID);
    let (one, other) = (
        long("acme-of-the-north-east"),
        long("acme-of-the-north-west"),
    );
    assert!(
        one.len() <= ACCOUNT_ID && other.len() <= ACCOUNT_ID,
        "{one} {other}"
    );
    assert_ne!(one, other);
    assert!(
        one.starts_with("drawoff-acme-") && one.ends_with("-start"),
        "{one}"
    );
    // Nothing of it can be in a name.
    let odd = long("…");
    assert!(
        odd.len() > "drawoff--start".len() && odd.is_ascii(),
        "{odd}"
    );
}

#[test]
fn lists_are_what_gcloud_takes() {
    let of = |items: &[&str]| list(&items.iter().map(|i| (*i).to_owned()).collect::<Vec<_>>());
    assert_eq!(of(&["A=1", "B=2"]), "A=1,B=2");
    assert_eq!(of(&["A=1,2", "B=x@y"]), "^|^A=1,2|B=x@y");
    assert_eq!(of(&["A=,@|#;~!"]), "^\u{1f}^A=,@|#;~!");
}

#[test]
fn accounts_are_where_google_has_them() {
    assert_eq!(accounts_domain("p"), "p.iam.gserviceaccount.com");
    assert_eq!(
        accounts_domain("example.com:p"),
        "p.example.com.iam.gserviceaccount.com"
    );
    assert_eq!(
        registry("example.com:p", "r"),
        "r-docker.pkg.dev/example.com/p/drawoff"
    );
}

#[test]
fn a_time_is_in_cloud_runs_words() {
    for good in ["90s", "50m", "24h", "168h"] {
        assert_eq!(task_timeout(good).as_deref(), Ok(good));
    }
    for bad in ["", "h", "0s", "169h", "1h30m", "1d", "24", "-1h", "24ħ"] {
        assert!(task_timeout(bad).is_err(), "{bad}");
    }
}
