//! The profiles that the tests write.

use everprof::profile::{
    Function, FunctionId, Kind, Label, Line, Location, LocationId, Mapping, MappingId, Profile,
};

/// A small profile with one of everything: two mappings, inlined lines, a location without an address, text
/// and number labels, tags, comments, and text that is hard to escape.
pub fn small() -> Profile {
    let mut profile = Profile::new(Kind::Cpu);
    profile.period = 10_101_010;
    profile.time_nanos = 1_763_814_000_123_456_789;
    profile.duration_nanos = 60_000_000_000;
    for (key, value) in [("service", "shop"), ("version", "1.0"), ("team", "a=b; \"c\" \\ ü")] {
        profile.tags.insert(key.into(), value.into());
    }
    profile.comments.push("hand-made for the tests".into());
    let binary = mapping(&mut profile, 0x5000_0000_0000, "/usr/bin/shop", "0123456789abcdef");
    let libc = mapping(&mut profile, 0x7f00_0000_0000, "/lib/libc.so.6", "fedcba9876543210");
    let main = function(&mut profile, "main", "/src/main.rs");
    let serve = function(&mut profile, "shop::serve::<alloc::vec::Vec<u8>>", "/src/serve.rs");
    let hash = function(&mut profile, "shop::hash; with\nodd \"text\"", "/src/hash.rs");
    let memcpy = function(&mut profile, "memcpy", "");
    let lost = function(&mut profile, "[lost: no room]", "");
    let root = location(&mut profile, Some(binary), 0x5000_0000_1000, &[(main, 7)]);
    let inlined = location(&mut profile, Some(binary), 0x5000_0000_2000, &[(hash, 31), (serve, 12)]);
    let leaf = location(&mut profile, Some(libc), 0x7f00_0000_3000, &[(memcpy, 0)]);
    let no_room = location(&mut profile, None, 0, &[(lost, 0)]);
    let a = [
        Label::text("thread_name", "worker-1"),
        Label::text("tenant", "α"),
        Label::number("bytes", 512, "bytes"),
    ];
    let b = [Label::text("thread_name", "worker-2"), Label::number("priority", 0, "count")];
    add(&mut profile, &[leaf, inlined, root], &a, [3, 30_303_030]);
    add(&mut profile, &[inlined, root], &a, [1, 10_101_010]);
    add(&mut profile, &[leaf, inlined, root], &b, [5, 50_505_050]);
    add(&mut profile, &[no_room], &[], [2, 20_202_020]);
    profile
}

/// `stacks` different stacks of `depth` frames, much like those of a large service.
pub fn large(stacks: usize, depth: usize) -> Profile {
    let mut profile = Profile::new(Kind::Cpu);
    profile.duration_nanos = 60_000_000_000;
    let binary = mapping(&mut profile, 0x5000_0000_0000, "/usr/bin/service", "0123456789abcdef");
    let functions: Vec<FunctionId> = (0..stacks / 4 + 1)
        .map(|n| {
            let name = format!(
                "service::module_{}::handlers::{:x}::<impl core::future::Future>::poll_{n}",
                n % 50,
                n * 7919
            );
            function(&mut profile, &name, &format!("/src/module_{}/handlers.rs", n % 50))
        })
        .collect();
    let locations: Vec<LocationId> = (0..stacks * 4 / 5 + 1)
        .map(|n| {
            let lines = [(functions[n % functions.len()], (n % 900) as i64 + 1)];
            location(&mut profile, Some(binary), 0x5000_0000_0000 + n as u64 * 37, &lines)
        })
        .collect();
    let mut state = 88_172_645_463_325_252_u64;
    let mut random = |below: usize| {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        (state >> 16) as usize % below.max(1)
    };
    // Leaf first. Each stack leaves an earlier one somewhere on its way from the root, as those of a program
    // do.
    let mut seen: Vec<Vec<LocationId>> = vec![];
    for n in 0..stacks {
        let mut stack =
            if seen.is_empty() { vec![locations[0]; depth] } else { seen[random(seen.len())].clone() };
        let fresh = 1 + random(depth).min(random(depth));
        for location in stack.iter_mut().take(fresh) {
            *location = locations[random(locations.len())];
        }
        add(
            &mut profile,
            &stack,
            &[Label::text("thread_name", format!("worker-{}", n % 16))],
            [1, 10_101_010],
        );
        seen.push(stack);
    }
    profile
}

pub fn mapping(profile: &mut Profile, start: u64, path: &str, build_id: &str) -> MappingId {
    let (filename, build_id) = (profile.string(path), profile.string(build_id));
    profile.mapping(Mapping {
        memory_start: start,
        memory_limit: start + 0x10_0000,
        file_offset: 0x1000,
        filename,
        build_id,
        has_functions: true,
        has_filenames: true,
        has_line_numbers: true,
        has_inline_frames: true,
    })
}

pub fn function(profile: &mut Profile, name: &str, file: &str) -> FunctionId {
    let (name, filename) = (profile.string(name), profile.string(file));
    profile.function(Function { name, system_name: name, filename, start_line: 3 })
}

pub fn location(
    profile: &mut Profile,
    mapping: Option<MappingId>,
    address: u64,
    lines: &[(FunctionId, i64)],
) -> LocationId {
    let lines = lines.iter().map(|&(function, line)| Line { function, line, column: 0 }).collect();
    profile.location(Location { mapping, address, lines })
}

pub fn add(profile: &mut Profile, stack: &[LocationId], labels: &[Label], values: [i64; 2]) {
    let (stack, labels) = (profile.stack(stack), profile.labels(labels));
    profile.add(stack, labels, &values);
}

/// Everything that a profile says, without its handles: equal for equal profiles however they were built.
pub fn content(profile: &Profile) -> String {
    let mut out = format!(
        "{:?} {:?} {:?} {} {} {} {:?} {:?}\n",
        profile.sample_types,
        profile.default_sample_type,
        profile.period_type,
        profile.period,
        profile.time_nanos,
        profile.duration_nanos,
        profile.tags,
        profile.comments,
    );
    for mapping in profile.mappings() {
        out += &mapping_content(profile, mapping);
    }
    for sample in profile.samples() {
        for id in profile.get_stack(sample.stack) {
            let location = profile.get_location(*id);
            let mapping = location.mapping.map(|id| mapping_content(profile, profile.get_mapping(id)));
            out += &format!("{:#x} in {mapping:?}:", location.address);
            for line in &location.lines {
                let function = profile.get_function(line.function);
                let names =
                    [function.name, function.system_name, function.filename].map(|id| profile.text(id));
                out += &format!(" {names:?} {} {}:{}", function.start_line, line.line, line.column);
            }
            out += "\n";
        }
        out += &format!("{:?} {:?}\n", profile.get_labels(sample.labels), sample.values);
    }
    out
}

fn mapping_content(profile: &Profile, mapping: &Mapping) -> String {
    let (filename, build_id) = (profile.text(mapping.filename), profile.text(mapping.build_id));
    let flags =
        [mapping.has_functions, mapping.has_filenames, mapping.has_line_numbers, mapping.has_inline_frames];
    format!(
        "{:x}-{:x} @{:x} {filename} {build_id} {flags:?}\n",
        mapping.memory_start, mapping.memory_limit, mapping.file_offset
    )
}
