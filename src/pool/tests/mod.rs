//! Stories, the table of all states and all events, and a simulation of a hostile world.
