// A PKCS #11 module that stands before another one, REAL, and has one oddity of other makers' modules, ODD; both are
// said when it is compiled.
// The function list is taken as PKCS #11 v2.40 lays it out: a version, then the functions in the standard's order.

#include <dlfcn.h>
#include <stddef.h>
#include <string.h>

typedef unsigned long ulong_t;
typedef struct { ulong_t type; void *value; ulong_t length; } attribute_t;
typedef struct { unsigned char version[2]; void *functions[68]; } list_t;

enum { GET_FUNCTION_LIST = 3, GET_TOKEN_INFO = 6, OPEN_SESSION = 12, LOGIN = 18, GENERATE_KEY_PAIR = 59 };
enum { TOKEN_FLAGS = 96, TOKEN_TIME = 188 }; // offsets in CK_TOKEN_INFO

static list_t *real_list, odd;

static int is(const char *oddity) { return strcmp(ODD, oddity) == 0; }

// opencryptoki: a clock that tells no date.
static ulong_t get_token_info(ulong_t slot, char *info) {
    ulong_t (*real)(ulong_t, char *) = real_list->functions[GET_TOKEN_INFO];
    ulong_t result = real(slot, info);
    if (result == 0 && is("clock")) {
        *(ulong_t *)(info + TOKEN_FLAGS) |= 0x40;
        memcpy(info + TOKEN_TIME, "        11:37:45", 16);
    }
    return result;
}

// A token that is only to be used: CKR_TOKEN_WRITE_PROTECTED.
static ulong_t open_session(ulong_t slot, ulong_t flags, void *a, void *b, ulong_t *session) {
    ulong_t (*real)(ulong_t, ulong_t, void *, void *, ulong_t *) = real_list->functions[OPEN_SESSION];
    return is("read-only") && (flags & 2) ? 0xe2 : real(slot, flags, a, b, session);
}

// A maker's own word for a wrong PIN: from CKR_VENDOR_DEFINED on.
static ulong_t login(ulong_t session, ulong_t user, char *pin, ulong_t length) {
    ulong_t (*real)(ulong_t, ulong_t, char *, ulong_t) = real_list->functions[LOGIN];
    ulong_t result = real(session, user, pin, length);
    return is("own-words") && result == 0xa0 ? 0x80000102 : result;
}

// tpm2-pkcs11: a private key that may not decrypt (0x105) has no public half that may verify.
static ulong_t generate_key_pair(ulong_t session, void *mechanism, attribute_t *public, ulong_t publics,
                                 attribute_t *private, ulong_t privates, ulong_t *a, ulong_t *b) {
    ulong_t (*real)(ulong_t, void *, attribute_t *, ulong_t, attribute_t *, ulong_t, ulong_t *, ulong_t *) =
        real_list->functions[GENERATE_KEY_PAIR];
    for (ulong_t i = 0; is("tpm") && i < privates; i++)
        if (private[i].type == 0x105 && !*(char *)private[i].value) return 0x05;
    return real(session, mechanism, public, publics, private, privates, a, b);
}

ulong_t C_GetFunctionList(list_t **list) {
    if (!real_list) {
        void *library = dlopen(REAL, RTLD_NOW);
        ulong_t (*get)(list_t **) = library ? dlsym(library, "C_GetFunctionList") : NULL;
        if (!get || get(&real_list) != 0) return 0x06;
        odd = *real_list;
        odd.functions[GET_FUNCTION_LIST] = C_GetFunctionList;
        odd.functions[GET_TOKEN_INFO] = get_token_info;
        odd.functions[OPEN_SESSION] = open_session;
        odd.functions[LOGIN] = login;
        odd.functions[GENERATE_KEY_PAIR] = generate_key_pair;
    }
    *list = &odd;
    return 0;
}
