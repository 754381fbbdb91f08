#include <stdio.h>

#include "text.h"

static int failed;

static void length(const char *text, size_t expected)
{
    if (text_length(text) != expected) {
        printf("length of %s: %zu, not %zu\n", text, text_length(text), expected);
        failed = 1;
    }
}

static void shorten(const char *text, size_t bytes, const char *expected)
{
    char room[64];
    strcpy(room, text);
    text_shorten(room, bytes);
    if (strcmp(room, expected) != 0) {
        printf("%s in %zu bytes: %s, not %s\n", text, bytes, room, expected);
        failed = 1;
    }
}

int main(void)
{
    length("", 0);
    length("abc", 3);
    length("äöü", 3);
    length("a€b", 3);
    shorten("abc", 5, "abc");
    shorten("abc", 2, "ab");
    shorten("aä", 2, "a");
    shorten("€", 2, "");
    puts(failed ? "RED" : "GREEN");
    return failed;
}
