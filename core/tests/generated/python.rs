//! The stubs of the Python package, as far as tables say them.

use std::fmt::Write;

use everprof::options::{OptionSpec, Shape};
use everprof::profile::Kind;
use everprof::stats::{StatSpec, StatValue, Stats};
use everprof::{ErrorKind, Options};

/// The text with every part between `# begin name` and `# end name` as the tables say.
pub(crate) fn stubs(text: &str) -> String {
    let parts = [
        ("kinds", kinds()),
        ("errors", errors()),
        ("start", signature("start", |_| true)),
        ("set", signature("set", |spec| spec.live)),
        ("stats", stats()),
    ];
    parts.into_iter().fold(text.to_string(), |text, (name, part)| {
        let (begin, end) = (format!("# begin {name}\n"), format!("# end {name}\n"));
        let (before, rest) = text.split_once(&begin).unwrap_or_else(|| panic!("no `{begin}`"));
        let (_, after) = rest.split_once(&end).unwrap_or_else(|| panic!("no `{end}`"));
        format!("{before}{begin}{part}{end}{after}")
    })
}

fn kinds() -> String {
    format!("_Kind = Literal[{}]\n", Kind::ALL.map(|kind| format!("{:?}", kind.name())).join(", "))
}

fn errors() -> String {
    let mut out = "class Error(Exception):\n    kind: str\n".to_string();
    for kind in ErrorKind::ALL {
        let name: String = kind.name().split('_').map(|word| word[..1].to_uppercase() + &word[1..]).collect();
        write!(out, "\nclass {name}Error(Error):\n    \"\"\"{}\"\"\"\n", kind.advice()).unwrap();
    }
    out
}

fn signature(function: &str, is_there: impl Fn(&OptionSpec) -> bool) -> String {
    let mut out = format!("def {function}(\n    *,\n");
    let specs: Vec<_> = Options::table().iter().filter(|spec| is_there(spec)).collect();
    for spec in &specs {
        writeln!(out, "    {}: {} | None = None,", spec.name, hint(spec)).unwrap();
    }
    out.push_str(") -> None:\n    \"\"\"\n");
    for spec in specs {
        writeln!(out, "    {}: {} ({})", spec.name, spec.doc().replace('\\', "\\\\"), spec.accepts())
            .unwrap();
    }
    out + "    \"\"\"\n"
}

fn hint(spec: &OptionSpec) -> String {
    let hint = match spec.shape {
        Shape::Flag => "bool",
        Shape::Whole => "int",
        Shape::Number => "float",
        Shape::NumberOrText => "int | str",
        Shape::Word => {
            let words: Vec<_> = spec.accepts().split(", ").map(|word| format!("{word:?}")).collect();
            return format!("Literal[{}]", words.join(", "));
        }
        Shape::Path => "str | os.PathLike[str]",
        Shape::List => "str | Sequence[str]",
        Shape::Pairs => "str | Mapping[str, object]",
        _ => "str",
    };
    let is_duration = matches!(spec.unit, "seconds" | "nanoseconds" | "days");
    if is_duration { format!("{hint} | timedelta") } else { hint.to_string() }
}

fn stats() -> String {
    let hint = |spec: &StatSpec| match spec.value(&Stats::default()) {
        StatValue::Flag(_) => "bool",
        StatValue::Count(_) => "int",
        StatValue::Number(_) => "float",
        StatValue::Words(_) => "list[str]",
        _ if spec.optional => "str | None",
        _ => "str",
    };
    let mut out = "class _Stats(TypedDict):\n".to_string();
    for spec in Stats::table() {
        write!(out, "    {}: {}\n    \"\"\"{}\"\"\"\n", spec.name, hint(spec), spec.doc()).unwrap();
    }
    out + "    frames_off: str | None\n    \"\"\"Why stacks have no frames of Python, where they have none.\"\"\"\n\
             \x20   gc_callback_cpu: float\n    \"\"\"What the kind `gc` took in the collector's callbacks.\"\"\"\n"
        + "    labels_off: str | None\n    \"\"\"Why samples inside of tasks have no labels, where they have none.\"\"\"\n"
}
