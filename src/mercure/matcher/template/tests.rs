//! Tests of templates with the expansions of RFC 6570 and with random ones.

use percent_encoding::{AsciiSet, NON_ALPHANUMERIC, utf8_percent_encode};
use proptest::prelude::*;

use super::*;

fn matches(template: &str, topic: &str) -> bool {
    assert!(is_template(template), "{template}");
    Template::new(template).unwrap().matches(topic)
}

/// The examples of RFC 6570 §3.2, with the values of its variables.
#[test]
fn expansions_of_rfc_6570_match() {
    let table: [(&str, &[&str]); 36] = [
        ("{var}", &["value"]),
        ("{hello}", &["Hello%20World%21"]),
        ("{half}", &["50%25"]),
        ("O{empty}X", &["OX"]),
        ("O{undef}X", &["OX"]),
        ("{x,y}", &["1024,768"]),
        ("{x,hello,y}", &["1024,Hello%20World%21,768"]),
        ("?{x,undef}", &["?1024"]),
        ("?{undef,y}", &["?768"]),
        ("{var:3}", &["val"]),
        ("{list}", &["red,green,blue"]),
        ("{list*}", &["red,green,blue"]),
        ("{keys}", &["semi,%3B,dot,.,comma,%2C"]),
        ("{keys*}", &["semi=%3B,dot=.,comma=%2C"]),
        ("{+path}/here", &["/foo/bar/here"]),
        ("here?ref={+path}", &["here?ref=/foo/bar"]),
        ("{+x,hello,y}", &["1024,Hello%20World!,768"]),
        ("{+path:6}/here", &["/foo/b/here"]),
        ("{+keys*}", &["semi=;,dot=.,comma=,"]),
        ("{#path:6}here", &["#/foo/bhere"]),
        ("{#x,hello,y}", &["#1024,Hello%20World!,768"]),
        ("X{.empty_keys}", &["X"]),
        ("www{.dom*}", &["www.example.com"]),
        ("X{.list*}", &["X.red.green.blue"]),
        ("X{.keys*}", &["X.semi=%3B.dot=..comma=%2C"]),
        ("{/var,x}/here", &["/value/1024/here", "/1024/here", "/here"]),
        ("{/list*,path:4}", &["/red/green/blue/%2Ffoo"]),
        ("{/keys*}", &["/semi=%3B/dot=./comma=%2C"]),
        ("{;x,y,empty}", &[";x=1024;y=768;empty", ";y=768", ""]),
        ("{;hello:5}", &[";hello=Hello"]),
        ("{;list*}", &[";list=red;list=green;list=blue"]),
        ("{;keys*}", &[";semi=%3B;dot=.;comma=%2C"]),
        ("{?x,y,empty}", &["?x=1024&y=768&empty=", "?x=1024&y=768", "?y=768&empty=", "?y=768", ""]),
        ("{?keys}", &["?keys=semi,%3B,dot,.,comma,%2C"]),
        ("{?keys*,x}", &["?semi=%3B&dot=.&comma=%2C&x=1024", "?x=1024"]),
        ("?fixed=yes{&x}", &["?fixed=yes&x=1024", "?fixed=yes"]),
    ];
    for (template, expansions) in table {
        for expansion in expansions {
            assert!(matches(template, expansion), "{template} {expansion}");
        }
    }
}

#[test]
fn impossible_expansion_does_not_match() {
    let table: [(&str, &[&str]); 17] = [
        (
            "/a/{id}",
            &["/a/1/2", "/a", "/b/1", "x/a/1", "/a/1?", "/a/é", "/a/1\n", "/a/%2", "/a/%zz"],
        ),
        ("{id}", &["a/b", "a b", "a&b", "a%"]),
        ("{var:3}", &["vale", "%C3%A9ab%20"]),
        ("{+path}", &["a b", "ü", "<", "a%2"]),
        ("{#x}", &["x", "##\""]),
        ("X{.x}", &["Xa", "X/a"]),
        ("{/x}", &["x", "/x/y"]),
        ("{/x,y}", &["/x/y/z"]),
        ("{/x*}", &["x", "/x?"]),
        ("{;x}", &["x", ";y", ";x;x", ";xy"]),
        ("{;x,y}", &[";y;x"]),
        ("{?x}", &["?", "?x", "x=1", "?y=1", "&x=1"]),
        ("{?x,y}", &["?y=1&x=1", "?x=1?y=1", "?x=1&x=1"]),
        ("{&x}", &["?x=1", "&x"]),
        ("a.b{x}", &["aXbc"]),
        ("ü{x}", &["u1", "%c3%bd1"]),
        ("{x}/{y}", &["a", "a/b/c"]),
    ];
    for (template, others) in table {
        for other in others {
            assert!(!matches(template, other), "{template} {other}");
        }
    }
    assert!(matches("ü{x}", "%c3%BC1") && matches("ü{x}", "ü1"));
}

#[test]
fn malformed_or_too_big_template_is_rejected() {
    for wrong in [
        "a",
        "{",
        "}",
        "a}",
        "{}",
        "{a",
        "{a}}",
        "{{a}}",
        "{=a}",
        "{|a}",
        "{a:0}",
        "{a:10000}",
        "{a:01}",
        "{a:}",
        "{a,}",
        "{,a}",
        "{a b}",
        "{a..b}",
        "{.}",
        "{a*:3}",
        "{%4}",
        "{ü}",
    ] {
        assert!(!is_template(wrong), "{wrong}");
    }
    assert!(Template::new("{a.b,%41_,c:9999}").is_err());
    let many: Vec<String> = (0..20).map(|n| format!("v{n}")).collect();
    assert_eq!(
        Template::new(&format!("{{?{}}}", many.join(","))).err(),
        Some(MatcherError::TooBig)
    );
    assert!(Template::new(&format!("{{&{}}}", many[..8].join(","))).is_ok());
}

#[derive(Debug, Clone)]
enum Value {
    Undefined,
    Text(String),
    List(Vec<String>),
    Keys(Vec<(String, String)>),
}

const UNRESERVED: &AsciiSet = &NON_ALPHANUMERIC.remove(b'-').remove(b'.').remove(b'_').remove(b'~');
const RESERVED: &AsciiSet = &UNRESERVED
    .remove(b':')
    .remove(b'/')
    .remove(b'?')
    .remove(b'#')
    .remove(b'[')
    .remove(b']')
    .remove(b'@')
    .remove(b'!')
    .remove(b'$')
    .remove(b'&')
    .remove(b'\'')
    .remove(b'(')
    .remove(b')')
    .remove(b'*')
    .remove(b'+')
    .remove(b',')
    .remove(b';')
    .remove(b'=');

/// Expands a template expression by RFC 6570 §3.2.1 and appendix A, independently of the code that
/// the tests check.
fn expand(operator: &str, variables: &[(String, Modifier, Value)]) -> String {
    let (first, separator, named, if_empty, set) = match operator {
        "+" => ("", ",", false, "", RESERVED),
        "#" => ("#", ",", false, "", RESERVED),
        "." => (".", ".", false, "", UNRESERVED),
        "/" => ("/", "/", false, "", UNRESERVED),
        ";" => (";", ";", true, "", UNRESERVED),
        "?" => ("?", "&", true, "=", UNRESERVED),
        "&" => ("&", "&", true, "=", UNRESERVED),
        _ => ("", ",", false, "", UNRESERVED),
    };
    let encode = |text: &str| utf8_percent_encode(text, set).to_string();
    let with = |name: &str, value: &str| match (named, value) {
        (false, value) => value.to_owned(),
        (true, "") => format!("{name}{if_empty}"),
        (true, value) => format!("{name}={value}"),
    };
    let parts = variables.iter().filter_map(|(name, modifier, value)| {
        let explode = *modifier == Modifier::Explode;
        Some(match value {
            Value::Undefined => return None,
            Value::List(list) if list.is_empty() => return None,
            Value::Keys(keys) if keys.is_empty() => return None,
            Value::Text(text) => {
                let length = match modifier {
                    Modifier::Prefix(length) => usize::from(*length),
                    _ => usize::MAX,
                };
                with(name, &encode(&text.chars().take(length).collect::<String>()))
            }
            Value::List(list) if explode => {
                let items = list.iter().map(|item| with(name, &encode(item)));
                items.collect::<Vec<_>>().join(separator)
            }
            Value::List(list) => {
                with(name, &list.iter().map(|item| encode(item)).collect::<Vec<_>>().join(","))
            }
            Value::Keys(keys) if explode => {
                let items = keys.iter().map(|(key, value)| match (named, &**value) {
                    (true, "") => format!("{}{if_empty}", encode(key)),
                    (_, value) => format!("{}={}", encode(key), encode(value)),
                });
                items.collect::<Vec<_>>().join(separator)
            }
            Value::Keys(keys) => {
                let items =
                    keys.iter().map(|(key, value)| format!("{},{}", encode(key), encode(value)));
                with(name, &items.collect::<Vec<_>>().join(","))
            }
        })
    });
    let parts: Vec<String> = parts.collect();
    if parts.is_empty() { String::new() } else { format!("{first}{}", parts.join(separator)) }
}

fn any_value() -> impl Strategy<Value = Value> {
    let text = || "[a-z ,/=&;.%é🎈]{0,6}";
    prop_oneof![
        Just(Value::Undefined),
        text().prop_map(Value::Text),
        proptest::collection::vec(text(), 0..3).prop_map(Value::List),
        proptest::collection::vec(("[a-z;=é]{1,3}", text()), 0..3).prop_map(Value::Keys),
    ]
}

fn any_variable() -> impl Strategy<Value = (String, Modifier, Value)> {
    let modifier = prop_oneof![
        Just(Modifier::None),
        Just(Modifier::Explode),
        (1..6_u16).prop_map(Modifier::Prefix)
    ];
    // A prefix modifier is valid only for a text, not for a list or an associative array.
    ("[a-z_]{1,3}(\\.[a-z])?", modifier, any_value()).prop_filter(
        "only a text has a prefix",
        |(_, modifier, value)| {
            !matches!(modifier, Modifier::Prefix(_))
                || matches!(value, Value::Text(_) | Value::Undefined)
        },
    )
}

proptest! {
    #[test]
    fn template_matches_all_its_expansions(
        pieces in proptest::collection::vec(
            ("[a-z/?. é]{0,4}", "[+#./;?&]?", proptest::collection::vec(any_variable(), 1..4)),
            1..3,
        ),
    ) {
        let (mut template, mut topic) = (String::new(), String::new());
        for (literal, operator, variables) in &pieces {
            template += literal;
            topic += &utf8_percent_encode(literal, RESERVED).to_string();
            let names = variables.iter().map(|(name, modifier, _)| match modifier {
                Modifier::None => name.clone(),
                Modifier::Explode => format!("{name}*"),
                Modifier::Prefix(length) => format!("{name}:{length}"),
            });
            let names = names.collect::<Vec<_>>().join(",");
            template.extend(["{", operator, &names, "}"]);
            topic += &expand(operator, variables);
        }
        match Template::new(&template) {
            // A template with many prefix modifiers may be too big.
            Err(error) => prop_assert_eq!(error, MatcherError::TooBig),
            Ok(compiled) => {
                let matches = compiled.matches(&topic);
                prop_assert!(matches, "{template} {topic}");
            }
        }
    }
}
