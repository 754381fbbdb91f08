#ifndef TEXT_H
#define TEXT_H
#include <string.h>

/* Characters of a UTF-8 text. */
size_t text_length(const char *text);
/* Cuts a UTF-8 text to at most so many bytes, never inside of a character. */
void text_shorten(char *text, size_t bytes);
#endif
