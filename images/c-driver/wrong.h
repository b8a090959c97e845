/* Ten mistakes that drivers make, to see what the card says of each: none of this belongs into a driver. */
#ifndef WRONG_H
#define WRONG_H

#include "driver.h"

/* The name behind `wrong=` in the command line; 0 if there is none. */
const char *wrong_name(uint64_t command_line);
/* Makes the mistake in a stream that runs, and waits until the card must have seen it. */
int wrong(const char *name, struct stream *stream);

#endif
