//! The one style sheet of the pages, and its digest, by which alone a browser lets it in.

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use sha2::{Digest, Sha256};

pub const SHEET: &str = "\
:root{color-scheme:light dark;--line:#8884;--soft:#8881;--mark:#0a66c2}
@media(prefers-color-scheme:dark){:root{--mark:#6cb2ff}}
body{font:16px/1.5 system-ui,sans-serif;margin:0 auto;max-width:62rem;padding:1rem 1.25rem 4rem}
h1{margin-bottom:.2rem}h2{border-bottom:1px solid var(--line);margin-top:2.5rem;padding-bottom:.2rem}
h3{margin:2rem 0 .3rem}h3 code{font-size:1rem}
a{color:var(--mark)}nav ul{columns:18rem;list-style:none;padding:0}
code,pre{font:14px/1.45 ui-monospace,monospace}code{background:var(--soft);border-radius:3px;padding:.05rem .25rem}
pre{background:var(--soft);border-radius:6px;overflow-x:auto;padding:.75rem 1rem}pre code{background:none;padding:0}
table{border-collapse:collapse;display:block;margin:.5rem 0 1rem;overflow-x:auto}
th,td{border-top:1px solid var(--line);padding:.25rem .75rem .25rem 0;text-align:left;vertical-align:top}
thead th{border-top:0}.method{font-weight:700;margin-right:.5rem}
";

/// SHA-256 in base 64, as a Content-Security-Policy has it.
pub fn digest() -> String {
    STANDARD.encode(Sha256::digest(SHEET.as_bytes()))
}
