//! Bounds on policy text. What is within them is planned in well under a second; what is not is
//! refused before it costs anything, with the place where it went over.

/// Longest policy text, in bytes.
pub const TEXT_BYTES_MAX: usize = 10 << 20;
/// Most YAML nodes in one text, aliases counted once for each use. A record takes two to ten.
pub const NODES_MAX: usize = 500_000;
/// How many more nodes than it has a text may be read as by naming lists and using them again: so many
/// for each that it has, and so many in any case. A real policy that names its lists stays far below;
/// a short text that multiplies itself is refused within milliseconds and a few MiB.
pub const ALIASED_FACTOR: usize = 10;
/// See [`ALIASED_FACTOR`].
pub const ALIASED_NODES: usize = 100_000;
/// Deepest nesting of sequences and mappings. A nested policy takes two levels.
pub const DEPTH_MAX: usize = 200;
/// Longest single value or tag, in bytes.
pub const SCALAR_BYTES_MAX: usize = 64 << 10;
/// Most rows (records, grants, permits) that one text may ask for. `!grant` and `!permit` multiply
/// lists, so a short text can ask for a great many.
pub const ROWS_MAX: usize = 500_000;
