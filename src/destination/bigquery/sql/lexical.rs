//! Names that GoogleSQL reserves. The emulator takes some of them where BigQuery does not, so statements
//! are held against BigQuery's own list (its page on lexical structure, 2026-08).

/// Words that are no names unless they are quoted.
const RESERVED: &str = "\
    ALL AND ANY ARRAY AS ASC ASSERT_ROWS_MODIFIED AT BETWEEN BY CASE CAST COLLATE CONTAINS CREATE CROSS CUBE \
    CURRENT DEFAULT DEFINE DESC DISTINCT ELSE END ENUM ESCAPE EXCEPT EXCLUDE EXISTS EXTRACT FALSE FETCH \
    FOLLOWING FOR FROM FULL GRAPH_TABLE GROUP GROUPING GROUPS HASH HAVING IF IGNORE IN INNER INTERSECT \
    INTERVAL INTO IS JOIN LATERAL LEFT LIKE LIMIT LOOKUP MERGE NATURAL NEW NO NOT NULL NULLS OF ON OR ORDER \
    OUTER OVER PARTITION PRECEDING PROTO QUALIFY RANGE RECURSIVE RESPECT RIGHT ROLLUP ROWS SELECT SET SOME \
    STRUCT TABLESAMPLE THEN TO TREAT TRUE UNBOUNDED UNION UNNEST USING WHEN WHERE WINDOW WITH WITHIN";

/// Those that the statements here use for what they mean.
const USED: &str = "\
    AND ARRAY AS BY CASE CAST DEFAULT DESC DISTINCT ELSE END EXISTS FALSE FROM IF IN INTERVAL INTO IS LIMIT NOT \
    NULL NULLS OR ORDER OVER PARTITION SELECT SET STRUCT THEN UNNEST WHEN WHERE WITH";

/// Those that end an expression, so that a comma or bracket may follow.
const LAST: &str = "NULL FALSE DESC END";

#[derive(Clone, Debug, PartialEq)]
enum Token {
    Word(String),
    /// A quoted name.
    Name,
    /// A literal or a parameter.
    Value,
    Sign(char),
}

impl Token {
    fn is(&self, word: &str) -> bool {
        matches!(self, Self::Word(w) if w == word)
    }

    fn is_sign(&self, any_of: &str) -> bool {
        matches!(self, Self::Sign(c) if any_of.contains(*c))
    }
}

fn is_of(list: &str, word: &str) -> bool {
    list.split_whitespace().any(|w| w == word)
}

fn tokens(sql: &str) -> Vec<Token> {
    let mut tokens = Vec::new();
    let mut rest = sql.chars().peekable();
    let in_word = |c: &char| c.is_ascii_alphanumeric() || *c == '_';
    while let Some(c) = rest.next() {
        match c {
            '`' | '\'' | '"' => {
                while let Some(inner) = rest.next().filter(|inner| *inner != c) {
                    if inner == '\\' {
                        rest.next();
                    }
                }
                tokens.push(if c == '`' { Token::Name } else { Token::Value });
            }
            '@' => {
                while rest.next_if(in_word).is_some() {}
                tokens.push(Token::Value);
            }
            c if in_word(&c) => {
                let mut word = String::from(c.to_ascii_uppercase());
                while let Some(c) = rest.next_if(in_word) {
                    word.push(c.to_ascii_uppercase());
                }
                tokens.push(match c.is_ascii_digit() {
                    true => Token::Value,
                    false => Token::Word(word),
                });
            }
            c if c.is_whitespace() => {}
            c => tokens.push(Token::Sign(c)),
        }
    }
    tokens
}

/// Whether no reserved word stands where a name should.
pub(in super::super) fn check(sql: &str) -> Result<(), String> {
    let tokens = tokens(sql);
    let none = Token::Sign(';');
    let at = |i: Option<usize>| i.and_then(|i| tokens.get(i)).unwrap_or(&none);
    // Where the names of an INSERT's columns are.
    let mut listed = 0..0;
    for (i, token) in tokens.iter().enumerate() {
        let Token::Word(word) = token else { continue };
        let (before, after) = (at(i.checked_sub(1)), at(Some(i + 1)));
        if word == "INTO" {
            let path = |t: &Token| matches!(t, Token::Name | Token::Word(_)) || t.is_sign(".");
            let open = (i + 1..tokens.len()).find(|n| !path(&tokens[*n]));
            if let Some(open) = open.filter(|n| tokens[*n].is_sign("(")) {
                let close = (open..tokens.len()).find(|n| tokens[*n].is_sign(")"));
                listed = open..close.unwrap_or(open);
            }
        }
        if !is_of(RESERVED, word) {
            continue;
        }
        let a_type = matches!(word.as_str(), "ARRAY" | "STRUCT");
        let named = match before {
            // `SELECT AS STRUCT`, `CAST(… AS ARRAY<…>)`
            t if t.is("AS") => {
                let of_rows = a_type && at(i.checked_sub(2)).is("SELECT");
                !(of_rows || a_type && after.is_sign("<"))
            }
            t if t.is("DECLARE") || t.is("SET") || t.is_sign(".") => true,
            t if t.is_sign("<") => !(a_type && after.is_sign("<")),
            _ => match after {
                t if t.is_sign("=!.") => true,
                t if t.is_sign(",)") => !is_of(LAST, word),
                _ => false,
            },
        };
        if named || listed.contains(&i) || !is_of(USED, word) {
            return Err(format!("`{word}` is no name in: {sql}"));
        }
    }
    Ok(())
}

#[test]
fn reserved_words_are_found_where_a_name_should_be() {
    for bad in [
        "SELECT 1 AS at FROM t",
        "SELECT a AS `b`, 1 AS end",
        "DECLARE to INT64 DEFAULT 0;",
        "SET rows = 1;",
        "SELECT default, a FROM t",
        "SELECT t.order FROM t",
        "SELECT a FROM t WHERE end = 1",
        "INSERT INTO `p`.`d`.t (a, end) VALUES (1, 2)",
        "INSERT INTO t (`a`, set, b) VALUES (1, 2, 3)",
        "DECLARE was STRUCT<end STRING> DEFAULT NULL;",
        "UPDATE t AS new SET a = 1 WHERE TRUE",
        "SELECT COUNT(range) FROM t",
        "SELECT a FROM t AS merge",
    ] {
        assert!(check(bad).is_err(), "{bad}");
    }
    for good in [
        "SELECT AS STRUCT COUNT(*) AS n, CAST(NULL AS ARRAY<STRUCT<`end` INT64>>) AS `at` FROM t",
        "SELECT 'AS end' AS a, `end`, @end, \"\\\" AS end\" FROM t ORDER BY a DESC, b DESC NULLS LAST",
        "INSERT INTO t (a, `end`) SELECT IF(a IS NULL, NULL, CASE WHEN a = 1 THEN 2 ELSE 3 END), 1",
        "DECLARE was STRUCT<a STRING, b ARRAY<INT64>> DEFAULT NULL; SET was = NULL;",
    ] {
        check(good).unwrap();
    }
}
