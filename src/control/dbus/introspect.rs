//! The introspection data of the objects. The text of Ratoon's interfaces is taken from the shipped file, so the two can't differ.

use std::fmt::Write;

use super::call::Object;
use super::{MANAGER, PROPERTIES, WORKER};

const SHIPPED: &str = include_str!("../../../systemd/dbus/org.ratoon1.xml");

const HEAD: &str = r#"<!DOCTYPE node PUBLIC "-//freedesktop//DTD D-BUS Object Introspection 1.0//EN"
 "http://www.freedesktop.org/standards/dbus/1.0/introspect.dtd">
<node>
"#;

/// The interfaces of the specification, and systemd's LogControl1.
const STANDARD: &str = r#"  <interface name="org.freedesktop.DBus.Peer">
    <method name="Ping"/>
    <method name="GetMachineId">
      <arg name="machine_uuid" type="s" direction="out"/>
    </method>
  </interface>
  <interface name="org.freedesktop.DBus.Introspectable">
    <method name="Introspect">
      <arg name="xml_data" type="s" direction="out"/>
    </method>
  </interface>
  <interface name="org.freedesktop.DBus.Properties">
    <method name="Get">
      <arg name="interface_name" type="s" direction="in"/>
      <arg name="property_name" type="s" direction="in"/>
      <arg name="value" type="v" direction="out"/>
    </method>
    <method name="Set">
      <arg name="interface_name" type="s" direction="in"/>
      <arg name="property_name" type="s" direction="in"/>
      <arg name="value" type="v" direction="in"/>
    </method>
    <method name="GetAll">
      <arg name="interface_name" type="s" direction="in"/>
      <arg name="props" type="a{sv}" direction="out"/>
    </method>
    <signal name="PropertiesChanged">
      <arg name="interface_name" type="s"/>
      <arg name="changed_properties" type="a{sv}"/>
      <arg name="invalidated_properties" type="as"/>
    </signal>
  </interface>
  <interface name="org.freedesktop.DBus.ObjectManager">
    <method name="GetManagedObjects">
      <arg name="objects" type="a{oa{sa{sv}}}" direction="out"/>
    </method>
    <signal name="InterfacesAdded">
      <arg name="object" type="o"/>
      <arg name="interfaces" type="a{sa{sv}}"/>
    </signal>
    <signal name="InterfacesRemoved">
      <arg name="object" type="o"/>
      <arg name="interfaces" type="as"/>
    </signal>
  </interface>
  <interface name="org.freedesktop.LogControl1">
    <property name="LogLevel" type="s" access="readwrite">
      <annotation name="org.freedesktop.DBus.Property.EmitsChangedSignal" value="false"/>
      <annotation name="org.freedesktop.systemd1.Privileged" value="true"/>
    </property>
    <property name="LogTarget" type="s" access="readwrite">
      <annotation name="org.freedesktop.DBus.Property.EmitsChangedSignal" value="false"/>
      <annotation name="org.freedesktop.systemd1.Privileged" value="true"/>
    </property>
    <property name="SyslogIdentifier" type="s" access="read">
      <annotation name="org.freedesktop.DBus.Property.EmitsChangedSignal" value="const"/>
    </property>
  </interface>
"#;

/// The introspection data of an object; `children` are the names below it.
pub(super) fn introspect(object: Object, children: impl IntoIterator<Item = String>) -> String {
    let mut text = String::from(HEAD);
    for interface in object.interfaces() {
        // A path that only leads to other objects has no properties to show.
        if object != Object::Branch || *interface != PROPERTIES {
            text.push_str(interface_text(interface));
        }
    }
    for child in children {
        let _ = writeln!(text, "  <node name=\"{child}\"/>");
    }
    text.push_str("</node>\n");
    text
}

/// The lines of one interface.
fn interface_text(interface: &str) -> &'static str {
    let source = if interface == MANAGER || interface == WORKER { SHIPPED } else { STANDARD };
    let open = format!("  <interface name=\"{interface}\">\n");
    let close = "  </interface>\n";
    let cut = source.find(&open).and_then(|from| Some(&source[from..from + source[from..].find(close)? + close.len()]));
    cut.unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Parses strictly, as D-Bus clients in Go and Python do.
    #[track_caller]
    fn parse<'a>(what: &str, text: &'a str) -> roxmltree::Document<'a> {
        let options = roxmltree::ParsingOptions { allow_dtd: true, ..roxmltree::ParsingOptions::default() };
        roxmltree::Document::parse_with_options(text, options).unwrap_or_else(|error| panic!("{what}: {error}\n{text}"))
    }

    #[test]
    fn xml_is_well_formed_as_shipped_and_as_served() {
        parse("org.ratoon1.xml", SHIPPED);
        parse("org.ratoon1.conf", include_str!("../../../systemd/dbus/org.ratoon1.conf"));
        for object in [Object::Manager, Object::Worker(1), Object::Log, Object::Branch] {
            let text = introspect(object, ["child".to_owned()]);
            let parsed = parse("served", &text);
            let named = |tag: &str| parsed.root_element().children().filter(|node| node.has_tag_name(tag)).count();
            assert_eq!((parsed.root_element().tag_name().name(), named("node")), ("node", 1), "{text}");
            let interfaces = object.interfaces().len() - usize::from(object == Object::Branch);
            assert_eq!(named("interface"), interfaces, "{text}");
        }
    }

    #[test]
    fn every_interface_has_its_text() {
        for object in [Object::Manager, Object::Worker(1), Object::Log] {
            let text = introspect(object, ["child".to_owned()]);
            for interface in object.interfaces() {
                assert_eq!(text.matches(&format!("<interface name=\"{interface}\">")).count(), 1, "{interface}");
            }
            assert_eq!(text.matches("<interface").count(), object.interfaces().len());
            assert!(text.ends_with("  <node name=\"child\"/>\n</node>\n"));
        }
        assert!(introspect(Object::Manager, []).contains("<method name=\"Reload\">"));
        assert!(!introspect(Object::Branch, []).contains("Properties"));
    }
}
