//! Creates responses with a long list, and sends them in pieces.
//!
//! So the memory for a response does not depend on the length of the list, and no more pieces are
//! created after the client has disconnected.

use std::borrow::Borrow;
use std::iter;
use std::mem;

use serde_json::Value;

use super::answer::Answer;
use crate::limits::LIST_PIECE;

/// Returns a response with a JSON document whose last field, `key`, is a list.
pub(super) fn answer(
    document: &Value,
    key: &str,
    items: impl Iterator<Item = Value> + Send + 'static,
) -> Answer {
    Answer::new(200)
        .with("Content-Type", "application/json")
        .with("Cache-Control", "no-store")
        .with_pieces(pieces(document, key, items))
}

/// Returns the JSON text of the object `document` in pieces, with the list added as the last field.
pub(super) fn pieces<V: Borrow<Value>, I: Iterator<Item = V>>(
    document: &Value,
    key: &str,
    items: I,
) -> impl Iterator<Item = Vec<u8>> + use<V, I> {
    let mut piece = document.to_string().into_bytes();
    piece.pop(); // the closing brace
    if piece.len() > 1 {
        piece.push(b',');
    }
    piece.extend(format!("{}:[", Value::from(key)).into_bytes());
    let (mut items, mut is_first) = (items.fuse(), true);
    let mut end = Some(b"]}");
    iter::from_fn(move || {
        while piece.len() < LIST_PIECE {
            let Some(item) = items.next() else {
                piece.extend_from_slice(end.take()?);
                break;
            };
            if !mem::replace(&mut is_first, false) {
                piece.push(b',');
            }
            piece.extend(item.borrow().to_string().into_bytes());
        }
        Some(mem::take(&mut piece))
    })
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn pieces_form_one_document_and_are_short() {
        for count in [0, 1, 2, 1_000] {
            let items: Vec<Value> = (0..count).map(|n| json!({ "n": n, "of": "\"[,]" })).collect();
            for mut document in [json!({}), json!({ "a": 1 })] {
                let pieces: Vec<Vec<u8>> =
                    pieces(&document, "list", items.clone().into_iter()).collect();
                assert!(pieces.iter().all(|piece| piece.len() < LIST_PIECE + 100));
                document["list"] = items.clone().into();
                assert_eq!(pieces.concat(), document.to_string().into_bytes());
            }
        }
    }
}
