//! Every wrong setting is answered with one clear line.
