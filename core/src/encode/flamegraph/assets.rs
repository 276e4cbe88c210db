//! The page around the data: markup, style and script, joined to one document with a policy that allows just these.

use super::text::{Base64, html_text};
use crate::encode::sha256;

const MARKUP: &str = include_str!("page.html");
/// Colours and type, which all of our pages share.
const THEME: &str = include_str!("theme.css");
const STYLE: [&str; 5] = [
    THEME,
    include_str!("page.css"),
    include_str!("panels.css"),
    include_str!("wall.css"),
    include_str!("timeline.css"),
];
/// One script: the files share its scope. What a file uses at load stands before it.
const SCRIPT: [&str; 23] = [
    include_str!("values.js"),
    include_str!("data.js"),
    include_str!("tree.js"),
    include_str!("unfold.js"),
    include_str!("functions.js"),
    include_str!("search.js"),
    include_str!("doing.js"),
    include_str!("ages.js"),
    include_str!("colours.js"),
    include_str!("state.js"),
    include_str!("canvas.js"),
    include_str!("tooltip.js"),
    include_str!("header.js"),
    include_str!("verdict.js"),
    include_str!("rates.js"),
    include_str!("overtime.js"),
    include_str!("timeline.js"),
    include_str!("filters.js"),
    include_str!("table.js"),
    include_str!("findings.js"),
    include_str!("keys.js"),
    include_str!("print.js"),
    include_str!("page.js"),
];

/// A document titled `title` whose data `write_data` appends, in a form that is safe inside a script element.
pub(super) fn page(title: &str, write_data: impl FnOnce(&mut String)) -> String {
    let style = STYLE.concat();
    let script = SCRIPT.concat();
    let mut out = String::with_capacity(style.len() + script.len() + 64 * 1024);
    let (head, body) = MARKUP.split_once("<!-- head -->").unwrap_or((MARKUP, ""));
    out.push_str(head);
    out.push_str(
        "<meta http-equiv=\"Content-Security-Policy\" content=\"default-src 'none'; script-src 'sha256-",
    );
    hash(&mut out, &script);
    out.push_str("'; style-src 'sha256-");
    hash(&mut out, &style);
    out.push_str("'; base-uri 'none'; form-action 'none'\">\n<title>");
    html_text(&mut out, title);
    out.push_str("</title>\n<style>");
    out.push_str(&style);
    out.push_str("</style>\n");
    let (body, end) = body.split_once("<!-- data -->").unwrap_or((body, ""));
    out.push_str(body);
    out.push_str("<script type=\"application/json\" id=\"data\">");
    write_data(&mut out);
    out.push_str("</script>\n<script type=\"module\">");
    out.push_str(&script);
    out.push_str("</script>\n");
    out.push_str(end);
    out
}

/// A document without script or data, which looks like the others: `body` is markup that was escaped where it had to be.
pub(super) fn plain(title: &str, style: &str, body: &str) -> String {
    let style = [THEME, style].concat();
    let mut out = String::with_capacity(style.len() + body.len() + 1024);
    let (head, _) = MARKUP.split_once("<!-- head -->").unwrap_or((MARKUP, ""));
    out.push_str(head);
    out.push_str(
        "<meta http-equiv=\"Content-Security-Policy\" content=\"default-src 'none'; style-src 'sha256-",
    );
    hash(&mut out, &style);
    out.push_str("'; base-uri 'none'; form-action 'self'\">\n<title>");
    html_text(&mut out, title);
    out.push_str("</title>\n<style>");
    out.push_str(&style);
    out.push_str("</style>\n</head>\n<body>\n");
    out.push_str(body);
    out.push_str("</body>\n</html>\n");
    out
}

fn hash(out: &mut String, text: &str) {
    let mut base64 = Base64::new(out);
    sha256(text.as_bytes()).into_iter().for_each(|byte| base64.byte(byte));
    base64.finish();
}

#[cfg(test)]
mod tests {
    use super::{MARKUP, SCRIPT, STYLE};

    #[test]
    fn script_and_style_end_where_they_should() {
        for text in SCRIPT.iter().chain(&STYLE) {
            assert!(!text.contains("</") && !text.contains("<!--") && text.ends_with('\n'));
        }
    }

    #[test]
    fn the_markup_has_both_places() {
        for place in ["<!-- head -->", "<!-- data -->"] {
            assert_eq!(MARKUP.matches(place).count(), 1);
        }
    }
}
