use std::collections::HashMap;

use super::*;
use crate::connector::PageSize;

fn rules(step: Step) -> Pagination {
    Pagination {
        step,
        size: Some(PageSize {
            param: Some("per_page".into()),
            value: 3,
        }),
        has_more: None,
        total_pages: None,
        total: None,
        read_ahead: false,
        stop_after_empty_pages: 1,
        stop_on_short_page: false,
        max_pages: 100,
        max_records: None,
    }
}

fn page() -> Pagination {
    rules(Step::Page {
        param: "page".into(),
        first: 1,
        next: None,
    })
}

/// Runs a listing whose pages hold `counts` records and `values`; the tokens that were asked for.
fn run(rules: &Pagination, pages: &[(u64, &[(&str, &str)])]) -> Result<Vec<Token>> {
    let mut pager = Pager::new(rules);
    let url = Url::parse("https://api.example/v1/items?page=1").unwrap();
    let mut token = pager.first();
    let mut asked = Vec::new();
    for (i, (records, values)) in pages.iter().enumerate() {
        asked.push(token.clone());
        let values: HashMap<_, _> = values
            .iter()
            .map(|(k, v)| ((*k).to_owned(), (*v).to_owned()))
            .collect();
        let walked = Walked {
            records: *records,
            values,
        };
        let facts = PageFacts {
            url: &url,
            headers: &HeaderMap::new(),
            walked: &walked,
            fingerprint: i as u64,
        };
        match pager.turn(&token, &facts)? {
            Some(next) => token = next,
            None => return Ok(asked),
        }
    }
    panic!("did not end after {} pages", pages.len());
}

#[test]
fn pages_end_with_an_empty_one_not_with_a_short_one() {
    let asked = run(&page(), &[(3, &[]), (2, &[]), (3, &[]), (0, &[])]).unwrap();
    assert_eq!(asked, [1, 2, 3, 4].map(Token::Page));
    let short = Pagination {
        stop_on_short_page: true,
        ..page()
    };
    assert_eq!(run(&short, &[(3, &[]), (2, &[])]).unwrap().len(), 2);
    let gaps = Pagination {
        stop_after_empty_pages: 2,
        ..page()
    };
    assert_eq!(
        run(&gaps, &[(3, &[]), (0, &[]), (1, &[]), (0, &[]), (0, &[])])
            .unwrap()
            .len(),
        5
    );
}

#[test]
fn a_server_that_caps_the_size_is_followed() {
    // 3 were asked for, 2 are served a page.
    assert_eq!(
        run(&page(), &[(2, &[]), (2, &[]), (0, &[])]).unwrap().len(),
        3
    );
    let offset = rules(Step::Offset {
        param: "offset".into(),
    });
    assert_eq!(
        run(&offset, &[(2, &[]), (2, &[]), (0, &[])]).unwrap(),
        [0, 2, 4].map(Token::Offset)
    );
}

#[test]
fn totals_end_a_listing_only_with_a_short_page() {
    let rules = Pagination {
        total: Some(Locator::Body("/total".into())),
        ..page()
    };
    assert_eq!(
        run(&rules, &[(3, &[("/total", "5")]), (2, &[("/total", "5")])])
            .unwrap()
            .len(),
        2
    );
    // Shrunk while reading, or an estimate: the listing goes on until it is empty.
    assert_eq!(
        run(
            &rules,
            &[(3, &[("/total", "3")]), (3, &[("/total", "3")]), (0, &[])]
        )
        .unwrap()
        .len(),
        3
    );
    assert_eq!(
        run(&rules, &[(3, &[("/total", "oops")]), (0, &[])])
            .unwrap()
            .len(),
        2
    );
}

#[test]
fn has_more_decides() {
    let rules = Pagination {
        has_more: Some(Locator::Body("/more".into())),
        ..page()
    };
    assert_eq!(
        run(
            &rules,
            &[(0, &[("/more", "true")]), (3, &[("/more", "false")])]
        )
        .unwrap()
        .len(),
        2
    );
    assert_eq!(run(&rules, &[(3, &[])]).unwrap().len(), 1);
}

#[test]
fn cursors_and_urls_end_when_absent() {
    let next = Locator::Body("/next".into());
    let cursor = rules(Step::Cursor {
        param: "after".into(),
        next: next.clone(),
    });
    assert_eq!(
        run(
            &cursor,
            &[(3, &[("/next", "abc")]), (0, &[("/next", "d")]), (1, &[])]
        )
        .unwrap(),
        [
            Token::Start,
            Token::Cursor("abc".into()),
            Token::Cursor("d".into())
        ]
    );
    let url = rules(Step::NextUrl { next });
    let asked = run(&url, &[(3, &[("/next", "?page=2")]), (3, &[("/next", "")])]).unwrap();
    assert_eq!(
        asked[1],
        Token::Url("https://api.example/v1/items?page=2".parse().unwrap())
    );
}

#[test]
fn circles_and_limits_are_errors() {
    let cursor = rules(Step::Cursor {
        param: "after".into(),
        next: Locator::Body("/next".into()),
    });
    let e = run(
        &cursor,
        &[
            (3, &[("/next", "a")]),
            (3, &[("/next", "b")]),
            (3, &[("/next", "a")]),
        ],
    )
    .unwrap_err();
    assert!(e.to_string().contains("circle"), "{e}");
    let short = Pagination {
        max_pages: 2,
        ..page()
    };
    assert!(
        run(&short, &[(3, &[]), (3, &[])])
            .unwrap_err()
            .to_string()
            .contains("max_pages")
    );
    let capped = Pagination {
        max_records: Some(6),
        ..page()
    };
    assert!(
        run(&capped, &[(3, &[]), (3, &[])])
            .unwrap_err()
            .to_string()
            .contains("6 records")
    );
}

#[test]
fn the_same_page_twice_is_a_circle() {
    let rules = page();
    let mut pager = Pager::new(&rules);
    let url = Url::parse("https://api.example/").unwrap();
    let walked = Walked {
        records: 3,
        ..Walked::default()
    };
    let facts = PageFacts {
        url: &url,
        headers: &HeaderMap::new(),
        walked: &walked,
        fingerprint: 7,
    };
    let next = pager.turn(&Token::Page(1), &facts).unwrap().unwrap();
    assert!(pager.turn(&next, &facts).is_err());
}

#[test]
fn tokens_go_into_the_query_once() {
    let rules = page();
    let pager = Pager::new(&rules);
    let mut url = Url::parse("https://api.example/?page=9&q=a%2Bb").unwrap();
    pager.apply(
        &Token::Page(2),
        &mut Target {
            url: &mut url,
            body: None,
        },
    );
    assert_eq!(url.query(), Some("q=a%2Bb&per_page=3&page=2"));
    let rules = self::rules(Step::Cursor {
        param: "/page/after".into(),
        next: Locator::Header("X".into()),
    });
    let mut body = serde_json::json!({"q": 1});
    let mut url = Url::parse("https://api.example/").unwrap();
    let mut target = Target {
        url: &mut url,
        body: Some(&mut body),
    };
    Pager::new(&rules).apply(&Token::Cursor("x".into()), &mut target);
    assert_eq!(body, serde_json::json!({"q": 1, "page": {"after": "x"}}));
}

#[test]
fn pages_ahead_only_when_trusted() {
    let rules = Pagination {
        total: Some(Locator::Body("/total".into())),
        read_ahead: true,
        ..page()
    };
    let mut pager = Pager::new(&rules);
    let url = Url::parse("https://api.example/").unwrap();
    let walked = Walked {
        records: 3,
        values: HashMap::from([("/total".to_owned(), "10".to_owned())]),
    };
    let facts = PageFacts {
        url: &url,
        headers: &HeaderMap::new(),
        walked: &walked,
        fingerprint: 7,
    };
    pager.turn(&Token::Page(1), &facts).unwrap();
    assert_eq!(pager.ahead(&facts), [2, 3, 4].map(Token::Page));
}
