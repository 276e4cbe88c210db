//! Walking over the entries of a unit: most of them are passed over, so that has to be quick.
//!
//! An entry whose attributes have a fixed size, which is known from its abbreviation, costs an addition. Types whose
//! entry says where they end are left out with all that is in them.

use gimli::{AttributeValue, EntriesRaw};

use super::cursor::Cursor;
use super::sections::Slice;
use super::unit::{Header, entries};
use crate::symbolize::stats::Reason;

/// Abbreviations beyond this number are looked at each time they come.
const SHAPES_LIMIT: u64 = 1 << 16;

/// What is to be known of an abbreviation to pass over its entries.
#[derive(Clone, Copy)]
struct Shape {
    tag: gimli::DwTag,
    children: bool,
    attributes: u32,
    /// The size of all attributes together, where it is always the same.
    size: Option<u32>,
    /// A type whose end is said in the entry.
    says_end: bool,
}

/// The place in a unit.
pub(crate) struct Walk<'a> {
    bytes: &'a [u8],
    header: &'a Header,
    abbreviations: &'a gimli::Abbreviations,
    shapes: Vec<Shape>,
    place: usize,
    depth: isize,
}

/// An entry whose attributes come next.
pub(crate) struct Entry {
    pub(crate) offset: u64,
    pub(crate) depth: isize,
    pub(crate) tag: gimli::DwTag,
    pub(crate) children: bool,
    /// How many attributes it has.
    pub(crate) attributes: u32,
    code: u64,
    shape: Shape,
}

impl<'a> Walk<'a> {
    /// Starts at the first entry of the unit whose bytes are `bytes`.
    pub(crate) fn new(bytes: &'a [u8], header: &'a Header, abbreviations: &'a gimli::Abbreviations) -> Self {
        let known = (1..SHAPES_LIMIT).map_while(|code| abbreviations.get(code));
        let shapes = known.map(|abbreviation| Shape::of(abbreviation, header.encoding)).collect();
        Self { bytes, header, abbreviations, shapes, place: header.header_size, depth: 0 }
    }

    /// The next entry; None at the end of the unit. Its attributes must be read or skipped before the next call.
    pub(crate) fn next(&mut self) -> Result<Option<Entry>, Reason> {
        loop {
            let rest = self.bytes.get(self.place..).ok_or(Reason::Malformed)?;
            if rest.is_empty() {
                return Ok(None);
            }
            let mut cursor = Cursor::new(rest);
            let (offset, depth) = (self.place as u64, self.depth);
            let code = cursor.uleb()?;
            self.place += rest.len() - cursor.len();
            if code == 0 {
                self.depth -= 1;
                continue;
            }
            let shape = match self.shapes.get(code as usize - 1) {
                Some(&shape) => shape,
                None => {
                    Shape::of(self.abbreviations.get(code).ok_or(Reason::Malformed)?, self.header.encoding)
                }
            };
            self.depth += isize::from(shape.children);
            let Shape { tag, children, attributes, .. } = shape;
            return Ok(Some(Entry { offset, depth, tag, children, attributes, code, shape }));
        }
    }

    /// Passes over an entry, and where it is a type that says its end over what is in it.
    pub(crate) fn skip(&mut self, entry: &Entry) -> Result<(), Reason> {
        if let Some(size) = entry.shape.size.filter(|_| !entry.shape.says_end) {
            self.place += size as usize;
            return Ok(());
        }
        let mut end = None;
        let read = |entries: &mut EntriesRaw<'_, Slice<'_>>, specs: &[gimli::AttributeSpecification]| {
            if !entry.shape.says_end {
                return entries.skip_attributes(specs);
            }
            for &spec in specs {
                let attribute = entries.read_attribute(spec)?;
                if let (gimli::DW_AT_sibling, AttributeValue::UnitRef(offset)) =
                    (attribute.name(), attribute.value())
                {
                    end = Some(offset.0);
                }
            }
            Ok(())
        };
        self.read(entry, read)?;
        // Never back: that would be a circle.
        if let Some(end) = end.filter(|&end| end > self.place && end <= self.bytes.len()) {
            self.place = end;
            self.depth = entry.depth;
        }
        Ok(())
    }

    /// Gives `read` the attributes of an entry, all of which it must read.
    pub(crate) fn read<T>(
        &mut self,
        entry: &Entry,
        read: impl FnOnce(&mut EntriesRaw<'_, Slice<'_>>, &[gimli::AttributeSpecification]) -> gimli::Result<T>,
    ) -> Result<T, Reason> {
        let rest = self.bytes.get(self.place..).ok_or(Reason::Malformed)?;
        let abbreviation = self.abbreviations.get(entry.code).ok_or(Reason::Malformed)?;
        let mut entries = entries(rest, self.header, self.abbreviations, self.place as u64);
        let value = read(&mut entries, abbreviation.attributes()).map_err(|_| Reason::Malformed)?;
        self.place = entries.next_offset().0;
        Ok(value)
    }
}

impl Shape {
    fn of(abbreviation: &gimli::Abbreviation, encoding: gimli::Encoding) -> Self {
        let specs = abbreviation.attributes();
        let sizes = specs.iter().map(|spec| fixed_size(spec.form(), encoding));
        let tag = abbreviation.tag();
        // Code is never in these, as it may be in a namespace or in another function.
        let data = matches!(
            tag,
            gimli::DW_TAG_structure_type
                | gimli::DW_TAG_class_type
                | gimli::DW_TAG_union_type
                | gimli::DW_TAG_enumeration_type
                | gimli::DW_TAG_subroutine_type
                | gimli::DW_TAG_array_type
        );
        Self {
            tag,
            children: abbreviation.has_children(),
            attributes: specs.len() as u32,
            size: sizes.sum(),
            says_end: data
                && abbreviation.has_children()
                && specs.iter().any(|spec| spec.name() == gimli::DW_AT_sibling),
        }
    }
}

/// The size of an attribute of one form, where the form alone says it.
fn fixed_size(form: gimli::DwForm, encoding: gimli::Encoding) -> Option<u32> {
    let offset = if encoding.format == gimli::Format::Dwarf64 { 8 } else { 4 };
    Some(match form {
        gimli::DW_FORM_flag_present | gimli::DW_FORM_implicit_const => 0,
        gimli::DW_FORM_data1 | gimli::DW_FORM_ref1 | gimli::DW_FORM_flag => 1,
        gimli::DW_FORM_strx1 | gimli::DW_FORM_addrx1 => 1,
        gimli::DW_FORM_data2 | gimli::DW_FORM_ref2 | gimli::DW_FORM_strx2 | gimli::DW_FORM_addrx2 => 2,
        gimli::DW_FORM_data4 | gimli::DW_FORM_ref4 | gimli::DW_FORM_strx4 | gimli::DW_FORM_addrx4 => 4,
        gimli::DW_FORM_data8 | gimli::DW_FORM_ref8 | gimli::DW_FORM_ref_sig8 => 8,
        gimli::DW_FORM_data16 => 16,
        gimli::DW_FORM_addr => u32::from(encoding.address_size),
        gimli::DW_FORM_sec_offset | gimli::DW_FORM_strp | gimli::DW_FORM_line_strp => offset,
        _ => return None,
    })
}
