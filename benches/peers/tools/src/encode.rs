//! Encoding and compressing a profile of 10,000 stacks of 30 frames: straight from the model, and by way of message
//! structs.

use std::collections::HashMap;
use std::io::Write;

use everprof::encode::pprof;
use everprof::profile::{LabelValue, Profile};
use flate2::Compression;
use flate2::write::GzEncoder;
use prost::Message;

use crate::{profiles, proto, tell};

pub(crate) fn measure(tool: &str) {
    let profile = profiles::large(10_000, 30);
    let mut bytes = 0;
    match tool {
        "everprof" => tell(|| pprof::encode(&profile), |gzip| bytes = gzip.len()),
        "prost" => tell(|| by_structs(&profile), |gzip| bytes = gzip.len()),
        other => panic!("no tool named {other:?}"),
    }
    println!("size\tKiB\t{}", bytes as f64 / 1024.0);
}

fn by_structs(profile: &Profile) -> Vec<u8> {
    let encoded = structs(profile).encode_to_vec();
    // The level that everprof compresses with, and the same compressor.
    let mut gzip = GzEncoder::new(Vec::new(), Compression::new(1));
    gzip.write_all(&encoded).expect("a vector takes everything");
    gzip.finish().expect("a vector takes everything")
}

fn structs(profile: &Profile) -> proto::Profile {
    let mut strings = Strings::default();
    strings.id("");
    let mut message = proto::Profile {
        time_nanos: profile.time_nanos,
        duration_nanos: profile.duration_nanos,
        ..Default::default()
    };
    for kind in &profile.sample_types {
        let (name, unit) = (strings.id(&kind.name), strings.id(&kind.unit));
        message.sample_type.push(proto::ValueType { r#type: name, unit });
    }
    for sample in profile.samples() {
        let mut labels = Vec::new();
        for label in profile.get_labels(sample.labels) {
            let key = strings.id(&label.key);
            labels.push(match &label.value {
                LabelValue::Text(text) => proto::Label { key, str: strings.id(text), ..Default::default() },
                LabelValue::Number(num, unit) => {
                    proto::Label { key, num: *num, num_unit: strings.id(unit), ..Default::default() }
                }
            });
        }
        let ids = profile.get_stack(sample.stack).iter().map(|location| location.index() as u64 + 1);
        message.sample.push(proto::Sample {
            location_id: ids.collect(),
            value: sample.values.to_vec(),
            label: labels,
        });
    }
    for (at, location) in profile.locations().iter().enumerate() {
        let line = |line: &everprof::profile::Line| proto::Line {
            function_id: line.function.index() as u64 + 1,
            line: line.line,
            column: line.column,
        };
        message.location.push(proto::Location {
            id: at as u64 + 1,
            mapping_id: location.mapping.map_or(0, |mapping| mapping.index() as u64 + 1),
            address: location.address,
            line: location.lines.iter().map(line).collect(),
            ..Default::default()
        });
    }
    for (at, function) in profile.functions().iter().enumerate() {
        message.function.push(proto::Function {
            id: at as u64 + 1,
            name: strings.id(profile.text(function.name)),
            system_name: strings.id(profile.text(function.system_name)),
            filename: strings.id(profile.text(function.filename)),
            start_line: function.start_line,
        });
    }
    message.string_table = strings.list;
    message
}

#[derive(Default)]
struct Strings {
    ids: HashMap<String, i64>,
    list: Vec<String>,
}

impl Strings {
    fn id(&mut self, text: &str) -> i64 {
        if let Some(id) = self.ids.get(text) {
            return *id;
        }
        let id = self.list.len() as i64;
        self.ids.insert(text.to_string(), id);
        self.list.push(text.to_string());
        id
    }
}
