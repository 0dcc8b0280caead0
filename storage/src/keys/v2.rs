//! Version 2 of rows' bodies: audit records, as many in a row as came to the chain at once.

use conclave_domain::audit::{AuditBlock, AuditTexts};
use conclave_domain::effect::Row;
use conclave_domain::records::Digest;

use super::Table;
use super::v1::{Parser, put};
use crate::error::Fault;

#[derive(serde::Serialize, serde::Deserialize)]
struct AuditBlockV2<'a> {
    node: u64,
    sequence: u64,
    /// One after the other, 32 bytes each.
    hashes: &'a [u8],
    /// As [`AuditTexts::as_bytes`].
    texts: &'a [u8],
}

/// Appends the body of a row of audit records.
pub(super) fn put_body(out: &mut Vec<u8>, block: &AuditBlock) -> Result<(), Fault> {
    let hashes: Vec<u8> = block.hashes.iter().flat_map(|hash| hash.0).collect();
    let AuditBlock { node, sequence, texts, .. } = block;
    let (node, sequence) = (*node, *sequence);
    put(out, &AuditBlockV2 { node, sequence, hashes: &hashes, texts: texts.as_bytes() })
}

/// Reads a row of audit records from its key (after the table byte) and body.
pub(super) fn row(key: &[u8], body: &[u8]) -> Result<Row, Fault> {
    let parser = Parser { table: Table::AuditBlock };
    let body: AuditBlockV2<'_> = parser.body(body)?;
    let texts = AuditTexts::from_bytes(body.texts.to_vec()).map_err(|bad| parser.damaged(bad))?;
    let (hashes, rest) = body.hashes.as_chunks::<32>();
    if !rest.is_empty() || hashes.len() != texts.len() {
        return Err(parser.damaged("it has not as many hashes as records"));
    }
    let block = AuditBlock {
        node: body.node,
        sequence: body.sequence,
        hashes: hashes.iter().copied().map(Digest).collect(),
        texts,
    };
    Ok(Row::AuditBlock(u64::from_be_bytes(parser.array(key)?), block))
}
