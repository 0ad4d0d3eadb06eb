//! The macro behind [`crate::abi`]: it declares a C type once and keeps its text, from which the C
//! header is generated. One source of truth, no parser.

/// What the header generator knows of one declaration.
#[derive(Debug, Clone, Copy)]
pub enum Item {
    /// `#define NAME value`
    Constant { docs: &'static [&'static str], name: &'static str, value: u64, unsigned: bool },
    /// `struct name { fields }`
    Struct { docs: &'static [&'static str], name: &'static str, fields: &'static [Field] },
}

/// A member of a struct.
#[derive(Debug, Clone, Copy)]
pub struct Field {
    /// The doc comment, one line each.
    pub docs: &'static [&'static str],
    /// The member's name.
    pub name: &'static str,
    /// Byte offset in the struct.
    pub offset: usize,
    /// What it is.
    pub kind: Kind,
}

/// Plain data or a function pointer that returns `int`.
#[derive(Debug, Clone, Copy)]
pub enum Kind {
    /// The Rust spelling of the type.
    Data(&'static str),
    /// Parameters as (name, Rust spelling of the type).
    Function(&'static [(&'static str, &'static str)]),
}

/// Declares constants that the C side needs too: `pub const NAME: type = value;`.
macro_rules! c_constants {
    ($list:ident; $($(#[doc = $doc:literal])* $vis:vis const $name:ident: $ty:ident = $value:expr;)*) => {
        $($(#[doc = $doc])* $vis const $name: $ty = $value;)*
        pub(crate) const $list: &[$crate::declare::Item] = &[$(
            $crate::declare::Item::Constant {
                docs: &[$($doc),*],
                name: stringify!($name),
                value: $name as u64,
                unsigned: $name as u64 > i32::MAX as u64,
            }
        ),*];
    };
}

/// Declares a `#[repr(C)]` struct of data members and, after them, of nullable functions.
macro_rules! c_struct {
    (
        $list:ident;
        $(#[doc = $doc:literal])*
        $(#[derive($($derive:ident),*)])?
        $vis:vis struct $name:ident as $cname:literal {
            $($(#[doc = $fdoc:literal])* $fname:ident: $fty:ty,)*
        }
        $(functions {
            $($(#[doc = $odoc:literal])* fn $oname:ident($($pname:ident: $pty:ty),* $(,)?);)*
        })?
    ) => {
        $(#[doc = $doc])*
        $(#[derive($($derive),*)])?
        #[repr(C)]
        $vis struct $name {
            $($(#[doc = $fdoc])* pub $fname: $fty,)*
            $($($(#[doc = $odoc])* pub $oname: Option<unsafe extern "C" fn($($pname: $pty),*) -> libc::c_int>,)*)?
        }
        pub(crate) const $list: $crate::declare::Item = $crate::declare::Item::Struct {
            docs: &[$($doc),*],
            name: $cname,
            fields: &[
                $($crate::declare::Field {
                    docs: &[$($fdoc),*],
                    name: stringify!($fname),
                    offset: core::mem::offset_of!($name, $fname),
                    kind: $crate::declare::Kind::Data(stringify!($fty)),
                },)*
                $($($crate::declare::Field {
                    docs: &[$($odoc),*],
                    name: stringify!($oname),
                    offset: core::mem::offset_of!($name, $oname),
                    kind: $crate::declare::Kind::Function(&[$((stringify!($pname), stringify!($pty))),*]),
                },)*)?
            ],
        };
    };
}

pub(crate) use {c_constants, c_struct};
