/* CheckpointEngine for C++17: checkpoint_engine.h with owners, exceptions and views. Header only; nothing of it is in the library.
 *
 * Hold a checkpoint, and read it in another process:
 *
 *     checkpoint_engine::ServerOptions options;
 *     options.address = "10.0.0.5";
 *     checkpoint_engine::Server server(options);
 *     server.register_files("qwen", {"/models/qwen"});
 *     std::string url = server.peer_url() + "/qwen";              -> ce://10.0.0.5:40123/qwen
 *
 *     checkpoint_engine::Server joiner(checkpoint_engine::ServerOptions::join_only());
 *     checkpoint_engine::JoinOptions join_options;
 *     join_options.metas_url = url;
 *     checkpoint_engine::Join join = joiner.join(join_options);
 *     join.wait();
 *     checkpoint_engine::Checkpoint checkpoint = join.checkpoint();
 *     for (const checkpoint_engine::Tensor &tensor : checkpoint) { ...tensor.name, tensor.shape, tensor.data... }
 *
 * RULES THAT HOLD FOR EVERYTHING HERE, beside those of checkpoint_engine.h
 *
 * Ownership  Server, Metas, Checkpoint, Join and Cancel own one handle: they move, they do not copy, and the destructor destroys. One that was
 *            moved from holds nothing; its functions throw Error with CE_E_HANDLE. Views (Tensor, View, string_view) point into the object that
 *            gave them out and live as long as it does, or as is said. get() lends the C handle, release() gives it away.
 * Threads    Any number on one object, except that moving, assigning and destroying it needs it alone, as with every C++ object. (Handles
 *            themselves are safer than that: a program that must destroy under the feet of others does so with the C functions.)
 * Errors     Every call that does not return CE_OK throws Error with the status and ce_last_error's text, unless its comment says otherwise.
 *            std::bad_alloc comes from the standard library as ever. Destructors never throw. No exception crosses into the library.
 * Standard   C++17 and later give the same types and layouts, so that one program may mix them; from C++20 on a View is also a std::span.
 * dlopen     Define CHECKPOINT_ENGINE_DLOPEN before including and link nothing but -ldl: the library is opened on the first call, by the name in
 *            the macro CHECKPOINT_ENGINE_LIBRARY ("libcheckpoint_engine.so.0"). Where it or a function of it cannot be had, calls throw Error with
 *            CE_E_NOT_SUPPORTED and the loader's words. All sources of one program define it, or none. */
#ifndef CHECKPOINT_ENGINE_HPP
#define CHECKPOINT_ENGINE_HPP

#include "checkpoint_engine.h"

#include <chrono>
#include <cstddef>
#include <cstdint>
#include <exception>
#include <functional>
#include <memory>
#include <mutex>
#include <optional>
#include <stdexcept>
#include <string>
#include <string_view>
#include <type_traits>
#include <utility>
#include <vector>
#if defined(__has_include)
#if __has_include(<version>)
#include <version>
#endif
#endif
#if defined(__cpp_lib_span)
#include <span>
#endif
#if defined(__cpp_lib_ranges)
#include <ranges>
#endif

#if defined(CHECKPOINT_ENGINE_DLOPEN)
#include <dlfcn.h>
#ifndef CHECKPOINT_ENGINE_LIBRARY
#define CHECKPOINT_ENGINE_LIBRARY "libcheckpoint_engine.so.0"
#endif
/* A function of the library, looked up once. */
#define CHECKPOINT_ENGINE_CALL(function)                                                                                                             \
    ([]() -> decltype(&::function) {                                                                                                                 \
        static const auto found = reinterpret_cast<decltype(&::function)>(::checkpoint_engine::detail::symbol(#function));                           \
        return found;                                                                                                                                \
    }())
#else
#define CHECKPOINT_ENGINE_CALL(function) ::function
#endif

namespace checkpoint_engine {

/* ---- Errors -------------------------------------------------------------------------------------------------------------------------- */

/* A call that failed: its ce_status, and in what() the text: operation, subject, reason, and what to try.
 * Threads:   a value; copies are independent. */
class Error : public std::runtime_error {
public:
    Error(ce_status status, const std::string &text) : std::runtime_error(text), status_(status) {}

    /* A ce_status other than CE_OK. */
    ce_status status() const noexcept { return status_; }

private:
    ce_status status_;
};

namespace detail {

#if defined(CHECKPOINT_ENGINE_DLOPEN)
inline void *symbol(const char *name) {
    static void *const library = dlopen(CHECKPOINT_ENGINE_LIBRARY, RTLD_NOW | RTLD_LOCAL);
    if (library == nullptr) {
        throw Error(CE_E_NOT_SUPPORTED, "cannot open " CHECKPOINT_ENGINE_LIBRARY "; is it in LD_LIBRARY_PATH?");
    }
    void *found = dlsym(library, name);
    if (found == nullptr) {
        throw Error(CE_E_NOT_SUPPORTED, std::string(CHECKPOINT_ENGINE_LIBRARY " has no ") + name + "; it is older than the header");
    }
    return found;
}
#endif

/* Reads a string that a C function writes into a buffer of the caller: f(buffer, size). */
template <class F> std::string read_string(F f);

/* The calling thread's last text. Never fails: an empty one says that there is none. */
inline std::string last_error() {
    std::string text(256, '\0');
    for (;;) {
        std::size_t size = text.size();
        ce_status status = CHECKPOINT_ENGINE_CALL(ce_last_error)(&text[0], &size);
        if (status == CE_E_BUFFER_TOO_SMALL && size > text.size()) {
            text.resize(size);
            continue;
        }
        text.resize(status == CE_OK && size != 0 ? size - 1 : 0);
        return text;
    }
}

[[noreturn]] inline void raise(ce_status status) {
    std::string text = last_error();
    throw Error(status, text.empty() ? CHECKPOINT_ENGINE_CALL(ce_status_name)(status) : text);
}

inline void check(ce_status status) {
    if (status != CE_OK) {
        raise(status);
    }
}

template <class F> std::string read_string(F f) {
    std::string text(128, '\0');
    for (;;) {
        std::size_t size = text.size();
        ce_status status = f(&text[0], &size);
        if (status == CE_E_BUFFER_TOO_SMALL && size > text.size()) {
            text.resize(size);
            continue;
        }
        check(status);
        text.resize(size - 1);
        return text;
    }
}

/* The C interface's "not given": an empty string is NULL. A NUL inside would silently cut the string for the library: it is refused here. */
inline const char *c_string(const std::string &text) {
    if (text.find('\0') != std::string::npos) {
        throw Error(CE_E_ARGUMENT, "a string has a NUL inside");
    }
    return text.empty() ? nullptr : text.c_str();
}

inline const char *c_name(const std::string &text) {
    const char *given = c_string(text);
    return given == nullptr ? "" : given;
}

inline std::vector<const char *> c_strings(const std::vector<std::string> &texts) {
    std::vector<const char *> pointers;
    pointers.reserve(texts.size());
    for (const std::string &text : texts) {
        pointers.push_back(c_name(text));
    }
    return pointers;
}

/* Whole milliseconds, rounded up, so that the shortest time that was asked for is not taken for "none". */
template <class Rep, class Period> std::uint64_t milliseconds(std::chrono::duration<Rep, Period> time) {
    using Wide = std::chrono::duration<long double, std::milli>;
    long double wide = Wide(time).count();
    if (!(wide > 0)) {
        return 0;
    }
    if (wide >= 9.0e18L) {
        return CE_FOREVER;
    }
    auto whole = static_cast<std::uint64_t>(wide);
    return static_cast<long double>(whole) < wide ? whole + 1 : whole;
}

inline void destroy(ce_cancel *handle) noexcept { CHECKPOINT_ENGINE_CALL(ce_cancel_destroy)(handle); }
inline void destroy(ce_metas *handle) noexcept { CHECKPOINT_ENGINE_CALL(ce_metas_destroy)(handle); }
inline void destroy(ce_checkpoint *handle) noexcept { CHECKPOINT_ENGINE_CALL(ce_checkpoint_destroy)(handle); }
inline void destroy(ce_server *handle) noexcept { CHECKPOINT_ENGINE_CALL(ce_server_destroy)(handle); }

/* One handle and the duty to destroy it. */
template <class T> class Handle {
public:
    Handle() noexcept = default;
    explicit Handle(T *handle) noexcept : handle_(handle) {}
    Handle(Handle &&other) noexcept : handle_(std::exchange(other.handle_, nullptr)) {}
    Handle &operator=(Handle &&other) noexcept {
        if (this != &other) {
            reset(std::exchange(other.handle_, nullptr));
        }
        return *this;
    }
    Handle(const Handle &) = delete;
    Handle &operator=(const Handle &) = delete;
    ~Handle() { reset(nullptr); }

    /* The C handle, lent; NULL after a move. */
    T *get() const noexcept { return handle_; }

    /* The C handle, given away: the caller destroys it. */
    T *release() noexcept { return std::exchange(handle_, nullptr); }

private:
    void reset(T *next) noexcept {
        if (handle_ != nullptr) {
            destroy(handle_);
        }
        handle_ = next;
    }

    T *handle_ = nullptr;
};

/* Walks over what has size() and operator[](index); elements are made on the way. */
template <class Container> class IndexIterator {
public:
    using value_type = std::decay_t<decltype(std::declval<const Container &>()[std::uint64_t{0}])>;
    using difference_type = std::ptrdiff_t;
    using reference = value_type;
    using pointer = void;
    using iterator_category = std::input_iterator_tag;

    IndexIterator() = default;
    IndexIterator(const Container *container, std::uint64_t index) : container_(container), index_(index) {}
    value_type operator*() const { return (*container_)[index_]; }
    IndexIterator &operator++() {
        ++index_;
        return *this;
    }
    IndexIterator operator++(int) {
        IndexIterator before = *this;
        ++index_;
        return before;
    }
    bool operator==(const IndexIterator &other) const { return index_ == other.index_; }
    bool operator!=(const IndexIterator &other) const { return index_ != other.index_; }

private:
    const Container *container_ = nullptr;
    std::uint64_t index_ = 0;
};

} // namespace detail

/* The version of the library, for example "0.1.0".
 * Ownership: static text.   Threads: any.   Errors: none. */
inline std::string_view version() { return CHECKPOINT_ENGINE_CALL(ce_version)(); }

/* The version of the interface that the library has; checkpoint_engine.h's is CE_ABI_MAJOR and CE_ABI_MINOR.
 * Threads:   any.   Errors: none. */
inline std::uint32_t abi_version() { return CHECKPOINT_ENGINE_CALL(ce_abi_version)(); }

/* ---- Views --------------------------------------------------------------------------------------------------------------------------- */

/* Elements that lie one behind the other and belong to somebody else. A std::span's subset, the same type under every standard; from C++20 on it
 * is a contiguous range, which std::span is made of implicitly, and has span().
 * Ownership: none.   Threads: a value.   Errors: operator[] does not check. */
template <class T> class View {
public:
    using element_type = T;
    using value_type = std::remove_cv_t<T>;
    using iterator = T *;
    using size_type = std::size_t;

    constexpr View() noexcept = default;
    constexpr View(T *data, std::size_t size) noexcept : data_(data), size_(size) {}

    constexpr T *data() const noexcept { return data_; }
    constexpr std::size_t size() const noexcept { return size_; }
    constexpr std::size_t size_bytes() const noexcept { return size_ * sizeof(T); }
    constexpr bool empty() const noexcept { return size_ == 0; }
    constexpr T &operator[](std::size_t index) const { return data_[index]; }
    constexpr T *begin() const noexcept { return data_; }
    constexpr T *end() const noexcept { return data_ + size_; }
#if defined(__cpp_lib_span)
    constexpr std::span<T> span() const noexcept { return {data_, size_}; }
#endif

private:
    T *data_ = nullptr;
    std::size_t size_ = 0;
};

/* ---- Tensors ------------------------------------------------------------------------------------------------------------------------- */

/* Element types, with safetensors' names: ce_dtype. */
enum class Dtype : std::uint32_t {
    Unknown = CE_DTYPE_UNKNOWN,
    Bool = CE_DTYPE_BOOL,
    U8 = CE_DTYPE_U8,
    I8 = CE_DTYPE_I8,
    U16 = CE_DTYPE_U16,
    I16 = CE_DTYPE_I16,
    U32 = CE_DTYPE_U32,
    I32 = CE_DTYPE_I32,
    U64 = CE_DTYPE_U64,
    I64 = CE_DTYPE_I64,
    F16 = CE_DTYPE_F16,
    BF16 = CE_DTYPE_BF16,
    F32 = CE_DTYPE_F32,
    F64 = CE_DTYPE_F64,
    C64 = CE_DTYPE_C64,
    C128 = CE_DTYPE_C128,
    F8_E4M3 = CE_DTYPE_F8_E4M3,
    F8_E5M2 = CE_DTYPE_F8_E5M2,
    F8_E4M3_FNUZ = CE_DTYPE_F8_E4M3_FNUZ,
    F8_E5M2_FNUZ = CE_DTYPE_F8_E5M2_FNUZ,
    F8_E8M0 = CE_DTYPE_F8_E8M0,
    F4 = CE_DTYPE_F4,
    F6_E2M3 = CE_DTYPE_F6_E2M3,
    F6_E3M2 = CE_DTYPE_F6_E3M2
};

/* The safetensors name ("BF16"), or "".
 * Ownership: static text.   Threads: any.   Errors: none. */
inline std::string_view name(Dtype dtype) { return CHECKPOINT_ENGINE_CALL(ce_dtype_name)(static_cast<std::uint32_t>(dtype)); }

/* Bits of one element, 0 for none.
 * Threads:   any.   Errors: none. */
inline std::uint32_t bits(Dtype dtype) { return CHECKPOINT_ENGINE_CALL(ce_dtype_bits)(static_cast<std::uint32_t>(dtype)); }

/* One tensor to be read, dense in row-major order.
 * Ownership: all of it belongs to what gave it out: a Checkpoint or Metas as long as that lives, a Bucket until the callback returns.
 * Threads:   a value; its bytes may be read by any number. */
struct Tensor {
    std::string_view name;
    View<const std::int64_t> shape;      /* empty for a scalar */
    const std::byte *data = nullptr;     /* nullptr where only a description is given (Metas) or size is 0 */
    std::uint64_t size = 0;              /* bytes */
    Dtype dtype = Dtype::Unknown;

    Tensor() = default;
    explicit Tensor(const ce_tensor &from)
        : name(from.name == nullptr ? "" : from.name), shape(from.shape, from.rank), data(static_cast<const std::byte *>(from.data)),
          size(from.size_bytes), dtype(static_cast<Dtype>(from.dtype)) {}

    /* Its bytes; none where data is nullptr. */
    View<const std::byte> bytes() const noexcept { return {data, data == nullptr ? 0 : static_cast<std::size_t>(size)}; }

    /* Its elements as T, which must have their width; what T makes of the bits is the caller's. bfloat16, say, comes as std::uint16_t.
     * Errors:    Error with CE_E_WRONG_SHAPE: another width, or data that does not lie at a multiple of T's alignment. */
    template <class T> View<const T> as() const {
        static_assert(std::is_trivially_copyable<T>::value, "elements are copied as they lie in memory");
        if (bits(dtype) != sizeof(T) * 8) {
            throw Error(CE_E_WRONG_SHAPE, "tensor '" + std::string(name) + "' has elements of " + std::to_string(bits(dtype)) + " bits (" +
                                              std::string(checkpoint_engine::name(dtype)) + "), not " + std::to_string(sizeof(T) * 8));
        }
        if (reinterpret_cast<std::uintptr_t>(data) % alignof(T) != 0) {
            throw Error(CE_E_WRONG_SHAPE, "tensor '" + std::string(name) + "' does not lie at a multiple of " + std::to_string(alignof(T)) +
                                              " bytes; copy it from data");
        }
        return {reinterpret_cast<const T *>(data), bytes().size() / sizeof(T)};
    }
};

/* A tensor in the caller's memory: to be registered in place, or to be read into.
 * Ownership: data stays the caller's; how long it must stay, Server::register_tensors and JoinOptions::tensors say. The rest is a value. */
struct CallerTensor {
    std::string name;
    Dtype dtype = Dtype::Unknown;
    std::vector<std::int64_t> shape;     /* empty for a scalar */
    void *data = nullptr;                /* may be nullptr when it has no bytes */
    std::uint64_t size = 0;              /* bytes, or 0 to have them computed from dtype and shape */
};

namespace detail {

/* C descriptions of the caller's tensors; they point into `tensors`. */
inline std::vector<ce_tensor> c_tensors(const std::vector<CallerTensor> &tensors) {
    std::vector<ce_tensor> described;
    described.reserve(tensors.size());
    for (const CallerTensor &tensor : tensors) {
        ce_tensor c{};
        c.name = c_name(tensor.name);
        c.shape = tensor.shape.data();
        c.data = tensor.data;
        c.size_bytes = tensor.size;
        c.rank = static_cast<std::uint32_t>(tensor.shape.size());
        c.dtype = static_cast<std::uint32_t>(tensor.dtype);
        described.push_back(c);
    }
    return described;
}

} // namespace detail

/* ---- Cancelling ---------------------------------------------------------------------------------------------------------------------- */

/* Ends blocking calls from another thread. One may serve any number of calls.
 * Ownership: of its handle; may be destroyed while calls still have it.   Threads: any.   Errors: Error with CE_E_CANCELLED in what it ended. */
class Cancel {
public:
    Cancel() {
        ce_cancel *made = nullptr;
        detail::check(CHECKPOINT_ENGINE_CALL(ce_cancel_create)(&made));
        handle_ = detail::Handle<ce_cancel>(made);
    }

    /* Calls that wait with it, and calls to come, end with CE_E_CANCELLED. Again does nothing.
     * Threads:   any.   Errors: CE_E_HANDLE after a move. */
    void trigger() const { detail::check(CHECKPOINT_ENGINE_CALL(ce_cancel_trigger)(handle_.get())); }

    ce_cancel *get() const noexcept { return handle_.get(); }
    ce_cancel *release() noexcept { return handle_.release(); }

private:
    detail::Handle<ce_cancel> handle_;
};

/* ---- Metas --------------------------------------------------------------------------------------------------------------------------- */

/* How metas are fetched. Empty and zero mean the default. */
struct FetchOptions {
    std::string token;                       /* for ce:// and http(s) with a token */
    std::string ca_file;                     /* PEM authorities for https instead of the system's */
    std::string cert_file;                   /* PEM client certificate, with key_file */
    std::string key_file;
    std::chrono::milliseconds timeout{0};    /* the longest the fetch may take; 0: 30 s */
};

namespace detail {

/* Points into `options`. */
inline ce_fetch_options c_fetch_options(const FetchOptions &options) {
    ce_fetch_options c{};
    c.struct_size = sizeof c;
    c.token = c_string(options.token);
    c.ca_file = c_string(options.ca_file);
    c.cert_file = c_string(options.cert_file);
    c.key_file = c_string(options.key_file);
    c.timeout_ms = milliseconds(options.timeout);
    return c;
}

} // namespace detail

/* Who holds a checkpoint, and where its handshake service is. */
struct Owner {
    std::int32_t rank = 0;
    std::string address;     /* "host:port" */
};

/* Who holds which tensor where. Immutable. A range of Tensor (without data) over all owners.
 * Ownership: of its handle; what it gives out lives as long as it.   Threads: any.   Errors: Error. */
class Metas {
public:
    using iterator = detail::IndexIterator<Metas>;

    /* Takes over a handle of the C interface. */
    explicit Metas(ce_metas *handle) noexcept : handle_(handle) {}

    /* Reads a document, JSON or pickle, which is found out. Pickle is parsed, never executed.
     * Ownership: data is not kept.   Threads: any.   Errors: CE_E_ARGUMENT, CE_E_INVALID_DATA, CE_E_WRONG_SHAPE. */
    static Metas parse(const void *data, std::size_t size) {
        ce_metas *made = nullptr;
        detail::check(CHECKPOINT_ENGINE_CALL(ce_metas_parse)(data, size, &made));
        return Metas(made);
    }
    static Metas parse(std::string_view document) { return parse(document.data(), document.size()); }

    /* Fetches: http://, https://, unix:/run/ce.sock:/v1/metas, ce://host:port/NAME, or file:///path. Blocks.
     * Ownership: nothing is kept; cancel may be nullptr.   Threads: any.   Errors: as ce_metas_fetch. */
    static Metas fetch(const std::string &url, const FetchOptions &options = {}, const Cancel *cancel = nullptr) {
        ce_fetch_options c = detail::c_fetch_options(options);
        ce_metas *made = nullptr;
        detail::check(
            CHECKPOINT_ENGINE_CALL(ce_metas_fetch)(detail::c_name(url), &c, cancel == nullptr ? nullptr : cancel->get(), &made));
        return Metas(made);
    }

    /* Waits until the URL tells other metas than those that are known, and fetches them; without such, what there is comes at once. Blocks.
     * known:     what an earlier follow of this URL gave; may be nullptr.
     * wait:      the longest, in whole seconds, rounded up; 0 asks and does not wait. The time for the answer is options.timeout, beside it.
     * Returns nothing when they are the same still.
     * Ownership: nothing is kept; cancel may be nullptr.   Threads: any.   Errors: as ce_metas_follow. */
    template <class Rep, class Period>
    static std::optional<Metas> follow(const std::string &url, const Metas *known, std::chrono::duration<Rep, Period> wait, const FetchOptions &options = {},
                                       const Cancel *cancel = nullptr) {
        ce_fetch_options c = detail::c_fetch_options(options);
        ce_metas *made = nullptr;
        if (known != nullptr && known->get() == nullptr) {
            throw Error(CE_E_HANDLE, "the metas that are known were moved from");
        }
        ce_status status = CHECKPOINT_ENGINE_CALL(ce_metas_follow)(detail::c_name(url), &c, known == nullptr ? nullptr : known->get(),
                                                                   detail::milliseconds(wait), cancel == nullptr ? nullptr : cancel->get(), &made);
        if (status == CE_E_PENDING) {
            return std::nullopt;
        }
        detail::check(status);
        return Metas(made);
    }

    /* Itself as a JSON document.
     * Ownership: lives as long as the metas.   Threads: any.   Errors: CE_E_HANDLE. */
    std::string_view json() const {
        View<const std::byte> document = write(CE_METAS_JSON);
        return {reinterpret_cast<const char *>(document.data()), document.size()};
    }

    /* Itself in the form that the Python checkpoint-engine loads.
     * Ownership: lives as long as the metas.   Threads: any.   Errors: CE_E_HANDLE. */
    View<const std::byte> pickle() const { return write(CE_METAS_PICKLE); }

    /* Number of tensors over all owners; 0 after a move. */
    std::uint64_t size() const { return CHECKPOINT_ENGINE_CALL(ce_metas_tensor_count)(handle_.get()); }

    /* Tensor number index, without data.
     * Ownership: it points into the metas.   Threads: any.   Errors: CE_E_ARGUMENT beyond size(), CE_E_HANDLE. */
    Tensor operator[](std::uint64_t index) const {
        ce_tensor tensor{};
        detail::check(CHECKPOINT_ENGINE_CALL(ce_metas_tensor)(handle_.get(), index, &tensor, nullptr));
        return Tensor(tensor);
    }

    /* The rank of who holds tensor number index.
     * Threads:   any.   Errors: as operator[]. */
    std::int32_t owner_rank(std::uint64_t index) const {
        ce_tensor tensor{};
        std::int32_t rank = 0;
        detail::check(CHECKPOINT_ENGINE_CALL(ce_metas_tensor)(handle_.get(), index, &tensor, &rank));
        return rank;
    }

    iterator begin() const { return {this, 0}; }
    iterator end() const { return {this, size()}; }

    /* All owners, by rank.
     * Ownership: a copy.   Threads: any.   Errors: CE_E_HANDLE. */
    std::vector<Owner> owners() const {
        std::vector<Owner> all(static_cast<std::size_t>(CHECKPOINT_ENGINE_CALL(ce_metas_owner_count)(handle_.get())));
        for (std::size_t i = 0; i < all.size(); ++i) {
            all[i].address = detail::read_string([&](char *buffer, std::size_t *size) {
                return CHECKPOINT_ENGINE_CALL(ce_metas_owner)(handle_.get(), i, &all[i].rank, buffer, size);
            });
        }
        return all;
    }

    ce_metas *get() const noexcept { return handle_.get(); }
    ce_metas *release() noexcept { return handle_.release(); }

private:
    View<const std::byte> write(std::uint32_t format) const {
        const void *data = nullptr;
        std::size_t size = 0;
        detail::check(CHECKPOINT_ENGINE_CALL(ce_metas_write)(handle_.get(), format, &data, &size));
        return {static_cast<const std::byte *>(data), size};
    }

    detail::Handle<ce_metas> handle_;
};

/* ---- Checkpoints --------------------------------------------------------------------------------------------------------------------- */

/* A file (config, tokenizer) that came along with the tensors.
 * Ownership: data lives as long as the Checkpoint; the name is a copy. */
struct SideFile {
    std::string name;
    View<const std::byte> data;
};

/* Tensors in this process's memory. A range of Tensor, in the order in which they lie in memory.
 * Ownership: of its handle, which keeps the memory, also after unregister and the server's end (but tensors of the caller, registered in place,
 *            stay the caller's). What it gives out lives as long as it; it is to be read only.
 * Threads:   any.   Errors: Error. */
class Checkpoint {
public:
    using iterator = detail::IndexIterator<Checkpoint>;

    /* Takes over a handle of the C interface. */
    explicit Checkpoint(ce_checkpoint *handle) noexcept : handle_(handle) {}

    /* Number of tensors; 0 after a move. */
    std::uint64_t size() const { return CHECKPOINT_ENGINE_CALL(ce_checkpoint_tensor_count)(handle_.get()); }

    /* Bytes of tensor data; 0 after a move. */
    std::uint64_t size_bytes() const { return CHECKPOINT_ENGINE_CALL(ce_checkpoint_size)(handle_.get()); }

    /* Tensor number index. Under 100 ns.
     * Ownership: it points into the checkpoint.   Threads: any.   Errors: CE_E_ARGUMENT beyond size(), CE_E_HANDLE. */
    Tensor operator[](std::uint64_t index) const {
        ce_tensor tensor{};
        detail::check(CHECKPOINT_ENGINE_CALL(ce_checkpoint_tensor)(handle_.get(), index, &tensor));
        return Tensor(tensor);
    }

    /* The tensor of that name.
     * Ownership: it points into the checkpoint.   Threads: any.   Errors: CE_E_NOT_FOUND, CE_E_ARGUMENT, CE_E_HANDLE. */
    Tensor find(const std::string &name) const {
        ce_tensor tensor{};
        detail::check(CHECKPOINT_ENGINE_CALL(ce_checkpoint_find)(handle_.get(), detail::c_name(name), &tensor));
        return Tensor(tensor);
    }

    /* The tensor of that name, or nothing when there is none.
     * Ownership: it points into the checkpoint.   Threads: any.   Errors: CE_E_ARGUMENT, CE_E_HANDLE. */
    std::optional<Tensor> try_find(const std::string &name) const {
        ce_tensor tensor{};
        ce_status status = CHECKPOINT_ENGINE_CALL(ce_checkpoint_find)(handle_.get(), detail::c_name(name), &tensor);
        if (status == CE_E_NOT_FOUND) {
            return std::nullopt;
        }
        detail::check(status);
        return Tensor(tensor);
    }

    iterator begin() const { return {this, 0}; }
    iterator end() const { return {this, size()}; }

    /* The files that came along.
     * Ownership: their data points into the checkpoint.   Threads: any.   Errors: CE_E_HANDLE. */
    std::vector<SideFile> side_files() const {
        std::vector<SideFile> all(static_cast<std::size_t>(CHECKPOINT_ENGINE_CALL(ce_checkpoint_side_file_count)(handle_.get())));
        for (std::size_t i = 0; i < all.size(); ++i) {
            const void *data = nullptr;
            std::size_t data_size = 0;
            all[i].name = detail::read_string([&](char *buffer, std::size_t *size) {
                return CHECKPOINT_ENGINE_CALL(ce_checkpoint_side_file)(handle_.get(), i, buffer, size, &data, &data_size);
            });
            all[i].data = {static_cast<const std::byte *>(data), data_size};
        }
        return all;
    }

    ce_checkpoint *get() const noexcept { return handle_.get(); }
    ce_checkpoint *release() noexcept { return handle_.release(); }

private:
    detail::Handle<ce_checkpoint> handle_;
};

/* ---- Join: read what others hold ------------------------------------------------------------------------------------------------------- */

enum class Destination : std::uint32_t {
    Memory = CE_TO_MEMORY,
    Tensors = CE_TO_TENSORS,
    Buckets = CE_TO_BUCKETS,
    Directory = CE_TO_DIRECTORY,
    Null = CE_TO_NULL
};
enum class Verify : std::uint32_t { On = CE_VERIFY_ON, Require = CE_VERIFY_REQUIRE, Off = CE_VERIFY_OFF };
enum class Transport : std::uint32_t { Auto = CE_TRANSPORT_AUTO, Tcp = CE_TRANSPORT_TCP, Local = CE_TRANSPORT_LOCAL, Rdma = CE_TRANSPORT_RDMA, Mooncake = CE_TRANSPORT_MOONCAKE };

/* Whole tensors that have arrived and were checked. A range of Tensor.
 * Ownership: all of it is the library's and lives until the callback returns; the data may be changed through data().
 * Threads:   the library's thread that runs the callback. */
class Bucket {
public:
    using iterator = detail::IndexIterator<Bucket>;

    explicit Bucket(const ce_bucket &bucket) noexcept : bucket_(&bucket) {}

    std::byte *data() const noexcept { return static_cast<std::byte *>(bucket_->data); }
    std::uint64_t size_bytes() const noexcept { return bucket_->size_bytes; }     /* padding included */
    std::uint64_t index() const noexcept { return bucket_->index; }               /* counted from 0, in the order of the calls */
    std::uint64_t count() const noexcept { return bucket_->count; }               /* buckets of this join */
    std::uint64_t size() const noexcept { return bucket_->tensor_count; }         /* tensors in it */

    /* Tensor number index. Unchecked. */
    Tensor operator[](std::uint64_t index) const { return Tensor(bucket_->tensors[index]); }

    iterator begin() const { return {this, 0}; }
    iterator end() const { return {this, size()}; }

private:
    const ce_bucket *bucket_;
};

/* What a join reads, from where, to where. Empty and zero mean the default. */
struct JoinOptions {
    std::string metas_url;                               /* where the metas are, as in Metas::fetch; or */
    const Metas *metas = nullptr;                        /* the metas; not needed any more once Server::join has returned */
    std::optional<FetchOptions> fetch;                   /* for metas_url; what it leaves empty is as of the server: token, authorities, certificate */
    std::string checkpoint_name;                         /* its name here (Memory); empty: "join-checkpoint" */
    std::vector<std::string> include;                    /* name patterns (*, ?, [...]) of which a tensor must match one; none: all */
    std::vector<std::string> exclude;                    /* name patterns of tensors to leave out */
    Destination destination = Destination::Memory;
    std::vector<CallerTensor> tensors;                   /* Tensors: only these are read; their memory stays until the Join ended or is destroyed */
    std::string directory;                               /* Directory */
    std::function<void(const Bucket &)> on_bucket;       /* Buckets: may throw, which ends the join; Join::wait rethrows it */
    std::uint64_t bucket_bytes = 0;                      /* a bucket's size; there are two. 0: 256 MiB */
    std::chrono::milliseconds timeout{0};                /* for the whole join; 0: none */
    std::chrono::milliseconds stall_timeout{0};          /* the longest an owner may send nothing; 0: 30 s */
    Verify verify = Verify::On;
    Transport transport = Transport::Auto;
    std::uint32_t lanes = 0;                             /* connections per owner; 0: found out on the way */
    bool weights_only = false;                           /* leave side files where they are */
    bool copy = false;                                   /* Memory: copy what could be attached to; a write to an attached tensor is SIGSEGV */
    bool attach_files = false;                           /* attach to files that others than their owner may write, too */
    std::vector<std::string> replica_urls;               /* further URLs of the same checkpoint, beside metas_url: of these owners some may die */
    std::string earlier_checkpoint;                      /* Memory, Directory: a version held here; what has not changed is copied from it, not read */
    std::optional<std::chrono::milliseconds> retry_timeout;   /* with metas_url: how long it is asked again when an owner is lost; none: 10 s, 0: not at all */
    bool replace = false;                                /* Memory: replace what is held under checkpoint_name, once all of the new one is here */
    bool relay = false;                                  /* Memory, Directory: read together with other joins that set this, and offer them what is here: see
                                                          * Server::finish_relays */
};

enum class JoinState : std::uint32_t { Running = CE_JOIN_RUNNING, Done = CE_JOIN_DONE, Failed = CE_JOIN_FAILED, Cancelled = CE_JOIN_CANCELLED };
enum class JoinPhase : std::uint32_t {
    Metas = CE_PHASE_METAS,
    Plan = CE_PHASE_PLAN,
    Transfer = CE_PHASE_TRANSFER,
    Verify = CE_PHASE_VERIFY,
    Write = CE_PHASE_WRITE,
    Ended = CE_PHASE_ENDED
};

/* How far a join is. */
struct JoinProgress {
    std::uint64_t bytes_done = 0;      /* arrived */
    std::uint64_t bytes_total = 0;     /* 0 until the plan is made */
    std::uint32_t lanes = 0;           /* connections at work */
    std::uint32_t buckets_done = 0;    /* consumed */
    JoinPhase phase = JoinPhase::Metas;
    JoinState state = JoinState::Running;
};

/* What a join did: ce_join_report. */
struct JoinReport {
    std::uint64_t bytes = 0;               /* tensor data read, padding not counted */
    std::uint64_t tensors = 0;
    std::uint32_t buckets = 0;
    bool verified = false;                 /* every byte was checked against its owner's digest */
    std::string_view unverified_reason;    /* static text; empty when verified */
    double seconds = 0;                    /* plan to publication */
    double metas_seconds = 0;
    double plan_seconds = 0;
    double allocate_seconds = 0;
    double transfer_seconds = 0;
    double verify_seconds = 0;
    double write_seconds = 0;
    std::uint64_t attached_bytes = 0;      /* not copied: they are in the owners' memory, mapped read-only */
    std::uint64_t reused_bytes = 0;        /* not read, padding included: they were here already */
    std::uint64_t retried_bytes = 0;       /* asked for once more: an owner or connection was lost, or sent something else */
    std::uint64_t relayed_bytes = 0;       /* came from other joins and not from the owners, padding included */
};

/* A join on its way.
 * Ownership: of its handle and of the callback. The destructor ends it if it runs and waits, briefly, until no callback runs and nobody writes to
 *            the caller's memory any more; so it must not run inside the join's own callback. What the join brought stays with the server. The
 *            Server may go before it, and that ends it.
 * Threads:   any; the callback runs on one of the library's.   Errors: Error. */
class Join {
public:
    Join(Join &&other) noexcept : handle_(std::exchange(other.handle_, nullptr)), callback_(std::move(other.callback_)) {}
    Join &operator=(Join &&other) noexcept {
        if (this != &other) {
            close();
            handle_ = std::exchange(other.handle_, nullptr);
            callback_ = std::move(other.callback_);
        }
        return *this;
    }
    Join(const Join &) = delete;
    Join &operator=(const Join &) = delete;
    ~Join() { close(); }

    /* How far it is. Under 100 ns.
     * Threads:   any, its callback too.   Errors: CE_E_HANDLE after a move. */
    JoinProgress poll() const {
        ce_join_progress c{};
        c.struct_size = sizeof c;
        detail::check(CHECKPOINT_ENGINE_CALL(ce_join_poll)(handle_, &c));
        JoinProgress progress;
        progress.bytes_done = c.bytes_done;
        progress.bytes_total = c.bytes_total;
        progress.lanes = c.lanes;
        progress.buckets_done = c.buckets_done;
        progress.phase = static_cast<JoinPhase>(c.phase);
        progress.state = static_cast<JoinState>(c.state);
        return progress;
    }

    /* Waits until it has ended well.
     * Threads:   any number, any number of times, but not its callback (CE_E_STATE).
     * Errors:    what the callback threw, the very exception; else how the join failed: CE_E_CANCELLED after cancel(), ... */
    void wait() const { wait_milliseconds(CE_FOREVER); }

    /* Waits that long at most; 0 asks and does not wait. Returns whether it has ended well: false means not yet.
     * Threads, errors: as wait(). */
    template <class Rep, class Period> bool wait(std::chrono::duration<Rep, Period> timeout) const {
        return wait_milliseconds(detail::milliseconds(timeout));
    }

    /* Asks it to end, and returns at once. One that has ended stays as it is.
     * Threads:   any, its callback too.   Errors: CE_E_HANDLE after a move. */
    void cancel() const { detail::check(CHECKPOINT_ENGINE_CALL(ce_join_cancel)(handle_)); }

    /* What it did.
     * Ownership: a copy.   Threads: any.   Errors: CE_E_STATE: it has not ended well. */
    JoinReport report() const {
        ce_join_report c{};
        c.struct_size = sizeof c;
        detail::check(CHECKPOINT_ENGINE_CALL(ce_join_get_report)(handle_, &c));
        JoinReport report;
        report.bytes = c.bytes;
        report.tensors = c.tensors;
        report.buckets = c.buckets;
        report.verified = c.verified != 0;
        report.unverified_reason = c.unverified_reason == nullptr ? "" : c.unverified_reason;
        report.seconds = c.seconds;
        report.metas_seconds = c.metas_seconds;
        report.plan_seconds = c.plan_seconds;
        report.allocate_seconds = c.allocate_seconds;
        report.transfer_seconds = c.transfer_seconds;
        report.verify_seconds = c.verify_seconds;
        report.write_seconds = c.write_seconds;
        report.attached_bytes = c.attached_bytes;
        report.reused_bytes = c.reused_bytes;
        report.retried_bytes = c.retried_bytes;
        report.relayed_bytes = c.relayed_bytes;
        return report;
    }

    /* Which way each owner's bytes came, and why not a better one, a line for each.
     * Ownership: a copy.   Threads: any.   Errors: CE_E_STATE: it has not ended well. */
    std::string planes() const {
        return detail::read_string(
            [&](char *buffer, std::size_t *size) { return CHECKPOINT_ENGINE_CALL(ce_join_planes)(handle_, buffer, size); });
    }

    /* Remarks for the user, one per line; empty when there are none.
     * Ownership: a copy.   Threads: any.   Errors: CE_E_STATE: it has not ended well. */
    std::string warnings() const {
        return detail::read_string(
            [&](char *buffer, std::size_t *size) { return CHECKPOINT_ENGINE_CALL(ce_join_warnings)(handle_, buffer, size); });
    }

    /* The checkpoint that a join into memory has brought.
     * Ownership: independent of the join and the server.   Threads: any.   Errors: CE_E_STATE: it has not ended well, or went elsewhere. */
    Checkpoint checkpoint() const {
        ce_checkpoint *made = nullptr;
        detail::check(CHECKPOINT_ENGINE_CALL(ce_join_checkpoint)(handle_, &made));
        return Checkpoint(made);
    }

    /* The C handle, lent; it cannot be given away, because the callback goes with it. */
    ce_join *get() const noexcept { return handle_; }

private:
    friend class Server;

    struct Callback {
        std::function<void(const Bucket &)> on_bucket;
        std::mutex lock;                    /* of thrown: written by the callback's thread, read by those that wait */
        std::exception_ptr thrown;
    };

    Join(ce_join *handle, std::unique_ptr<Callback> callback) noexcept : handle_(handle), callback_(std::move(callback)) {}

    static int consume(void *user, const ce_bucket *bucket) noexcept {
        auto *callback = static_cast<Callback *>(user);
        try {
            callback->on_bucket(Bucket(*bucket));
            return 0;
        } catch (...) {
            std::lock_guard<std::mutex> hold(callback->lock);
            callback->thrown = std::current_exception();
            return 1;
        }
    }

    bool wait_milliseconds(std::uint64_t timeout) const {
        ce_status status = CHECKPOINT_ENGINE_CALL(ce_join_wait)(handle_, timeout);
        if (status == CE_OK) {
            return true;
        }
        if (status == CE_E_PENDING) {
            return false;
        }
        if (status == CE_E_CALLBACK && callback_ != nullptr) {
            std::exception_ptr thrown;
            {
                std::lock_guard<std::mutex> hold(callback_->lock);
                thrown = callback_->thrown;
            }
            if (thrown != nullptr) {
                std::rethrow_exception(thrown);
            }
        }
        detail::raise(status);
    }

    void close() noexcept {
        if (handle_ != nullptr && CHECKPOINT_ENGINE_CALL(ce_join_destroy)(std::exchange(handle_, nullptr)) == CE_E_STATE) {
            callback_.release();     /* destroyed inside its own callback, which still needs this: a leak is the lesser evil */
        }
        callback_.reset();
    }

    ce_join *handle_;
    std::unique_ptr<Callback> callback_;     /* its address is what the library hands to consume */
};

/* ---- Server: holds checkpoints and joins others' --------------------------------------------------------------------------------------- */

enum class Hold : std::uint32_t { Map = CE_HOLD_MAP, Memfd = CE_HOLD_MEMFD, Anon = CE_HOLD_ANON };
enum class Pin : std::uint32_t { Auto = CE_PIN_AUTO, Mlock = CE_PIN_MLOCK, None = CE_PIN_NONE };
enum class Digest : std::uint32_t { Xxh3 = CE_DIGEST_XXH3, Sha256 = CE_DIGEST_SHA256, None = CE_DIGEST_NONE };

/* Connections at a time; 0 means the default. */
struct ConnectionLimits {
    std::uint32_t all = 0;
    std::uint32_t of_address = 0;     /* of one address (IPv6: /64) */
};

/* How a server is made. Empty and zero mean the default. */
struct ServerOptions {
    std::string address;                            /* IP address of this host to bind and announce, no wildcard; empty: 127.0.0.1 */
    std::string token;                              /* what peers must prove to know (see Server::set_token); empty: nothing is demanded */
    std::string plain_peers;                        /* who may read without our handshake: "all", "none", or networks; empty: all without a token */
    std::chrono::milliseconds drain_timeout{0};     /* how long reads under way are waited for before they are cut; 0: 30 s */
    bool listen = true;                             /* false: it only joins, and what it holds nobody can read */
    std::int32_t rank = 0;                          /* this owner's rank in the world */
    std::uint16_t port = 0;                         /* of the handshake service; 0: any */
    Hold hold = Hold::Map;
    Pin pin = Pin::Auto;
    Digest digest = Digest::Xxh3;
    std::string local_socket;                       /* where this host's processes ask for the memory itself: a path or "@name"; empty: one of its own */
    std::string local_peers;                        /* which users may have it without a token: "own" (empty), "all", or numbers "1000,1001" */
    Transport transport = Transport::Auto;          /* Tcp offers no memory to this host */
    bool attach_files = false;                      /* offer mapped files for attaching even if others may write them */
    std::string rdma_devices;                       /* which RDMA devices it and its joins use, "mlx5_0,mlx5_3"; empty: what the environment says */
    bool consume = false;                           /* remove the weight files of a checkpoint, which lie in /dev/shm, once it is held */
    bool shared_pool = false;                       /* keep the memory of what was unregistered last for the next checkpoint of its layout */
    bool require_lease = false;                     /* nobody reads over the network without a lease: no plain Mooncake peer */
    std::chrono::milliseconds grace_time{0};        /* how long what is taken away stays readable for readers without a lease; 0: not at all */
    std::string tls_cert_file;                      /* PEM certificate with which the peer service speaks TLS 1.3; empty: it speaks none */
    std::string tls_key_file;                       /* its key; empty: tls_cert_file holds it */
    std::string tls_client_ca_file;                 /* PEM authorities of the certificates that clients must show; empty: they need none */
    std::string ca_file;                            /* of its joins: PEM authorities of owners that speak TLS; empty: the system's */
    std::string cert_file;                          /* of its joins: PEM client certificate, with key_file */
    std::string key_file;
    std::string audit_log;                          /* a line here for who registered, read and was refused; "-": stderr; empty: nowhere */
    bool require_tls = false;                       /* its joins read from no owner whose peer service speaks no TLS */
    bool encrypt_data = false;                      /* weights leave this host within TLS 1.3 alone, with tls_cert_file: no plain Mooncake peer, no RDMA */
    bool require_encryption = false;                /* its joins read over a network from no owner that does not encrypt; implies require_tls */
    ConnectionLimits peers;                         /* conversations of the peer service; 2,048 and 512 */
    ConnectionLimits data;                          /* data connections; 4,096 and 1,024 */
    ConnectionLimits handshakes;                    /* handshakes; 512 and 256 */
    std::uint32_t max_requests = 0;                 /* of one address to the peer service in a second; 0: 10,000 */
    std::uint32_t max_leases = 0;                   /* at a time; 0: 16,384 */
    std::uint32_t max_in_flight_kib = 0;            /* KiB that the kernel holds of one data connection; 0: the system's own measure */

    /* One that only joins. */
    static ServerOptions join_only() {
        ServerOptions options;
        options.listen = false;
        return options;
    }
};

enum class Engine : std::uint32_t {
    Vllm = CE_ENGINE_VLLM,
    Sglang = CE_ENGINE_SGLANG,
    Lmdeploy = CE_ENGINE_LMDEPLOY,
    VllmFiles = CE_ENGINE_VLLM_FILES,
    SglangFiles = CE_ENGINE_SGLANG_FILES
};
enum class Workers : std::uint32_t { V0_4 = CE_WORKERS_0_4, V0_2 = CE_WORKERS_0_2, V0_1 = CE_WORKERS_0_1 };
enum class UpdateDevices : std::uint32_t { Host = CE_UPDATE_HOST, Cuda = CE_UPDATE_CUDA, Auto = CE_UPDATE_AUTO };

/* How weights are brought into an inference server. Empty and zero mean the default. */
struct UpdateOptions {
    std::string endpoint;                            /* the server's URL; empty: "http://localhost:19730" */
    std::string unix_socket;                         /* reach it through this socket; empty: over TCP */
    std::string api_key;                             /* what its admin endpoints ask for */
    std::string weight_version;                      /* what SGLang calls the weights */
    std::string files_directory;                     /* where files are written, absent or empty; empty: a new directory in /dev/shm */
    std::uint64_t bucket_bytes = 0;                  /* of which there are two; 0: 64 MiB in host memory, 256 MiB on GPUs */
    std::chrono::milliseconds health_timeout{0};     /* the longest the server may take to be up; 0: 10 minutes */
    std::chrono::milliseconds step_timeout{0};       /* the longest a worker may take for a bucket; 0: 2 minutes */
    std::chrono::milliseconds update_timeout{0};     /* the longest the update may take once it is up; 0: 5 minutes */
    Engine engine = Engine::Vllm;
    std::uint32_t parallel_size = 1;                 /* number of workers */
    Workers workers = Workers::V0_4;
    UpdateDevices devices = UpdateDevices::Auto;
    bool keep_cache = false;                         /* SGLang keeps its cache of prefixes, which is of the old weights */
    bool keep_files = false;
};

/* What an update did: ce_update_report and ce_update_warnings. */
struct UpdateReport {
    std::uint64_t bytes = 0;           /* tensor data, padding not counted */
    std::uint64_t tensors = 0;
    std::uint64_t bucket_bytes = 0;    /* 0 for files, as buckets */
    std::uint64_t buckets = 0;
    double seconds = 0;                /* without the wait for the server's health */
    double health_seconds = 0;
    double write_seconds = 0;
    double copy_seconds = 0;
    double load_seconds = 0;
    double finish_seconds = 0;
    std::string warnings;              /* remarks for the user, one per line */
};

/* Whether memory is shared with the checkpoints before and after: as the server's shared_pool says, or whatever that says. */
enum class SharedPool : std::uint32_t { AsServer = CE_POOL_AS_SERVER, On = CE_POOL_ON, Off = CE_POOL_OFF };

/* Holds checkpoints for others to read, and joins what they hold.
 * Ownership: of its handle. The destructor ends its joins, stops listening, waits for reads under way (drain_timeout) and frees what no Checkpoint
 *            keeps; it must not run inside a callback of its joins.
 * Threads:   any.   Errors: Error. */
class Server {
public:
    /* Makes it and, unless it only joins, lets it listen.
     * Threads:   any.   Errors: CE_E_ARGUMENT; CE_E_NATIVE, CE_E_ALREADY_EXISTS: the address or port cannot be had. */
    explicit Server(const ServerOptions &options = {}) {
        ce_server_options c{};
        c.struct_size = sizeof c;
        c.address = detail::c_string(options.address);
        c.token = detail::c_string(options.token);
        c.plain_peers = detail::c_string(options.plain_peers);
        c.drain_timeout_ms = detail::milliseconds(options.drain_timeout);
        c.flags = (options.listen ? 0U : static_cast<std::uint32_t>(CE_SERVER_JOIN_ONLY)) | (options.consume ? static_cast<std::uint32_t>(CE_SERVER_CONSUME) : 0U)
            | (options.shared_pool ? static_cast<std::uint32_t>(CE_SERVER_SHARED_POOL) : 0U)
            | (options.require_lease ? static_cast<std::uint32_t>(CE_SERVER_REQUIRE_LEASE) : 0U);
        c.rank = options.rank;
        c.port = options.port;
        c.hold = static_cast<std::uint32_t>(options.hold);
        c.pin = static_cast<std::uint32_t>(options.pin);
        c.digest = static_cast<std::uint32_t>(options.digest);
        c.local_socket = detail::c_string(options.local_socket);
        c.local_peers = detail::c_string(options.local_peers);
        c.transport = static_cast<std::uint32_t>(options.transport);
        c.attach_files = options.attach_files ? 1U : 0U;
        c.rdma_devices = detail::c_string(options.rdma_devices);
        c.grace_time_ms = detail::milliseconds(options.grace_time);
        c.tls_cert_file = detail::c_string(options.tls_cert_file);
        c.tls_key_file = detail::c_string(options.tls_key_file);
        c.tls_client_ca_file = detail::c_string(options.tls_client_ca_file);
        c.ca_file = detail::c_string(options.ca_file);
        c.cert_file = detail::c_string(options.cert_file);
        c.key_file = detail::c_string(options.key_file);
        c.audit_log = detail::c_string(options.audit_log);
        c.require_tls = options.require_tls ? 1U : 0U;
        c.encrypt_data = options.encrypt_data ? 1U : 0U;
        c.require_encryption = options.require_encryption ? 1U : 0U;
        c.max_peers = options.peers.all;
        c.max_peers_of_address = options.peers.of_address;
        c.max_data = options.data.all;
        c.max_data_of_address = options.data.of_address;
        c.max_handshakes = options.handshakes.all;
        c.max_handshakes_of_address = options.handshakes.of_address;
        c.max_requests = options.max_requests;
        c.max_leases = options.max_leases;
        c.max_in_flight_kib = options.max_in_flight_kib;
        ce_server *made = nullptr;
        detail::check(CHECKPOINT_ENGINE_CALL(ce_server_create)(&c, &made));
        handle_ = detail::Handle<ce_server>(made);
    }

    /* "ce://host:port"; with "/NAME" behind it, the URL of a checkpoint's metas.
     * Ownership: a copy.   Threads: any.   Errors: CE_E_STATE: it does not listen. */
    std::string peer_url() const {
        return detail::read_string(
            [&](char *buffer, std::size_t *size) { return CHECKPOINT_ENGINE_CALL(ce_server_peer_url)(handle_.get(), buffer, size); });
    }

    /* "host:port" of the handshake service, as metas tell it.
     * Ownership: a copy.   Threads: any.   Errors: CE_E_STATE: it does not listen. */
    std::string p2p_address() const {
        return detail::read_string(
            [&](char *buffer, std::size_t *size) { return CHECKPOINT_ENGINE_CALL(ce_server_p2p_address)(handle_.get(), buffer, size); });
    }

    /* Holds files under a name: one directory, index or .safetensors file, or several .safetensors files. All or nothing. Blocks for a copy.
     * Ownership: nothing is kept; mapped files must stay as they are while they are held.   Threads: any.   Errors: as ce_server_register_files. */
    void register_files(const std::string &name, const std::vector<std::string> &paths, const Cancel *cancel = nullptr,
                        SharedPool pool = SharedPool::AsServer) const {
        hold_files(name, paths, false, pool, cancel);
    }

    /* As register_files, as the next generation of a name that may be held already: who asks is told of the old one until all of the new one is there.
     * Joins of the old one go on, and its memory is freed when they are done or drain_timeout is over. When it fails, the old one stays.
     * Ownership: as register_files; tensors of the caller that are replaced must stay until the destructor has returned.
     * Threads:   any.   Errors: as ce_server_replace_files. */
    void replace_files(const std::string &name, const std::vector<std::string> &paths, const Cancel *cancel = nullptr,
                       SharedPool pool = SharedPool::AsServer) const {
        hold_files(name, paths, true, pool, cancel);
    }

    /* Holds the caller's own tensors in place: nothing is copied. They may overlap (tied weights).
     * Ownership: the memory stays the caller's, mapped and unchanged outside begin_update and commit_update, until unregister or the destructor
     *            has returned. Descriptions are copied.
     * Threads:   any.   Errors: CE_E_ARGUMENT: the text names the tensor; CE_E_ALREADY_EXISTS. */
    void register_tensors(const std::string &name, const std::vector<CallerTensor> &tensors) const {
        std::vector<ce_tensor> described = detail::c_tensors(tensors);
        detail::check(
            CHECKPOINT_ENGINE_CALL(ce_server_register_tensors)(handle_.get(), detail::c_name(name), described.data(), described.size()));
    }

    /* Takes a checkpoint of the caller's tensors out of reach so that they may be changed. Blocks until nobody reads them.
     * Threads:   any.   Errors: CE_E_NOT_FOUND; CE_E_STATE: of files or a join, or an update has begun already. */
    void begin_update(const std::string &name) const {
        detail::check(CHECKPOINT_ENGINE_CALL(ce_server_begin_update)(handle_.get(), detail::c_name(name)));
    }

    /* Publishes the changed tensors as a new generation.
     * Threads:   any.   Errors: CE_E_NOT_FOUND; CE_E_STATE: no update has begun. */
    void commit_update(const std::string &name) const {
        detail::check(CHECKPOINT_ENGINE_CALL(ce_server_commit_update)(handle_.get(), detail::c_name(name)));
    }

    /* begin_update, change(), commit_update. When change throws, the tensors may be half changed: they stay out of reach, and the next
     * commit_update publishes them.
     * Threads:   any; change runs on the caller's.   Errors: as both, and what change throws. */
    template <class F> void update(const std::string &name, F &&change) const {
        begin_update(name);
        std::forward<F>(change)();
        commit_update(name);
    }

    /* Brings a checkpoint that is held here into a running inference server. Blocks.
     * Ownership: nothing is kept; cancel may be nullptr.   Threads: any, one update of a server at a time.   Errors: as ce_server_update. */
    UpdateReport update_inference(const std::string &name, const UpdateOptions &options = {}, const Cancel *cancel = nullptr) const {
        ce_update_options c = CE_UPDATE_OPTIONS_INIT;
        c.endpoint = detail::c_string(options.endpoint);
        c.unix_socket = detail::c_string(options.unix_socket);
        c.api_key = detail::c_string(options.api_key);
        c.weight_version = detail::c_string(options.weight_version);
        c.files_directory = detail::c_string(options.files_directory);
        c.bucket_bytes = options.bucket_bytes;
        c.health_timeout_ms = detail::milliseconds(options.health_timeout);
        c.step_timeout_ms = detail::milliseconds(options.step_timeout);
        c.update_timeout_ms = detail::milliseconds(options.update_timeout);
        c.engine = static_cast<std::uint32_t>(options.engine);
        c.parallel_size = options.parallel_size;
        c.worker_protocol = static_cast<std::uint32_t>(options.workers);
        c.devices = static_cast<std::uint32_t>(options.devices);
        c.keep_cache = options.keep_cache ? 1 : 0;
        c.keep_files = options.keep_files ? 1 : 0;
        ce_update_report report{};
        report.struct_size = sizeof report;
        detail::check(CHECKPOINT_ENGINE_CALL(ce_server_update)(handle_.get(), detail::c_name(name), &c, cancel == nullptr ? nullptr : cancel->get(), &report));
        UpdateReport done;
        done.bytes = report.bytes;
        done.tensors = report.tensors;
        done.bucket_bytes = report.bucket_bytes;
        done.buckets = report.buckets;
        done.seconds = report.seconds;
        done.health_seconds = report.health_seconds;
        done.write_seconds = report.write_seconds;
        done.copy_seconds = report.copy_seconds;
        done.load_seconds = report.load_seconds;
        done.finish_seconds = report.finish_seconds;
        done.warnings = detail::read_string([](char *buffer, std::size_t *size) { return CHECKPOINT_ENGINE_CALL(ce_update_warnings)(buffer, size); });
        return done;
    }

    /* Takes a checkpoint away; after it the caller's tensors may be freed. Blocks until nobody reads it.
     * Threads:   any.   Errors: CE_E_NOT_FOUND. */
    void unregister(const std::string &name) const {
        detail::check(CHECKPOINT_ENGINE_CALL(ce_server_unregister)(handle_.get(), detail::c_name(name)));
    }

    /* As unregister; a checkpoint of the shared pool leaves no memory there: its own is freed, and so is what is kept of others.
     * Threads:   any.   Errors: CE_E_NOT_FOUND. */
    void unregister_force(const std::string &name) const {
        detail::check(CHECKPOINT_ENGINE_CALL(ce_server_unregister_force)(handle_.get(), detail::c_name(name)));
    }

    /* Takes another token in the place of its own: what is shown and accepted from now on. Of several lines the first is shown, each accepted.
     * Connections that are open go on.
     * Ownership: a copy.   Threads: any.   Errors: CE_E_ARGUMENT; CE_E_STATE: it was made without a token. */
    void set_token(const std::string &token) const {
        detail::check(CHECKPOINT_ENGINE_CALL(ce_server_set_token)(handle_.get(), detail::c_name(token)));
    }

    /* Reads the certificate, key and authorities now, which is otherwise done within two seconds of a change. Connections that are open go on; after a
     * failure those that were read before stay.
     * Threads:   any.   Errors: CE_E_IO, CE_E_INVALID_DATA; CE_E_STATE: it was made without a certificate. */
    void reload_certificates() const { detail::check(CHECKPOINT_ENGINE_CALL(ce_server_reload_certificates)(handle_.get())); }

    /* Waits that long at most while other joiners are in the middle of what joins with relay have brought; then offers it no more, whatever the
     * outcome. Call it before the destructor, which waits for nobody, when the program ends after its joins. Returns whether nobody was left in the
     * middle. Blocks.
     * Threads:   any, several at once.   Errors: CE_E_CANCELLED; CE_E_HANDLE: destroyed meanwhile. */
    template <class Rep, class Period> bool finish_relays(std::chrono::duration<Rep, Period> timeout, const Cancel *cancel = nullptr) const {
        std::uint32_t done = 0;
        detail::check(CHECKPOINT_ENGINE_CALL(ce_server_finish_relays)(handle_.get(), detail::milliseconds(timeout), cancel == nullptr ? nullptr : cancel->get(), &done));
        return done != 0;
    }

    /* What it knows of a checkpoint: what it holds, merged with what load_metas told it.
     * Ownership: independent of the server.   Threads: any.   Errors: CE_E_NOT_FOUND, CE_E_BUSY, CE_E_STATE: it does not listen. */
    Metas metas(const std::string &name) const {
        ce_metas *made = nullptr;
        detail::check(CHECKPOINT_ENGINE_CALL(ce_server_metas)(handle_.get(), detail::c_name(name), &made));
        return Metas(made);
    }

    /* Replaces what is known of the other owners of a checkpoint.
     * Ownership: metas is not kept.   Threads: any.   Errors: CE_E_INVALID_DATA. */
    void load_metas(const std::string &name, const Metas &metas) const {
        detail::check(CHECKPOINT_ENGINE_CALL(ce_server_load_metas)(handle_.get(), detail::c_name(name), metas.get()));
    }

    /* A checkpoint that it holds: files, the caller's tensors, or what a join brought.
     * Ownership: keeps its memory; independent of the server.   Threads: any.   Errors: CE_E_NOT_FOUND. */
    Checkpoint checkpoint(const std::string &name) const {
        ce_checkpoint *made = nullptr;
        detail::check(CHECKPOINT_ENGINE_CALL(ce_server_checkpoint)(handle_.get(), detail::c_name(name), &made));
        return Checkpoint(made);
    }

    /* Starts a join and returns; it goes on by itself.
     * Ownership: options are copied, the callback too; the memory of options.tensors stays the caller's.
     * Threads:   any.   Errors: CE_E_ARGUMENT, CE_E_HANDLE; everything else is the result of the join: Join::wait. */
    Join join(const JoinOptions &options) const {
        std::vector<const char *> include = detail::c_strings(options.include);
        std::vector<const char *> exclude = detail::c_strings(options.exclude);
        std::vector<const char *> replicas = detail::c_strings(options.replica_urls);
        std::vector<ce_tensor> tensors = detail::c_tensors(options.tensors);
        ce_fetch_options fetch{};
        std::unique_ptr<Join::Callback> callback;

        ce_join_options c{};
        c.struct_size = sizeof c;
        c.checkpoint_name = detail::c_string(options.checkpoint_name);
        c.metas_url = detail::c_string(options.metas_url);
        if (options.metas != nullptr) {
            c.metas = options.metas->get();
            if (c.metas == nullptr) {
                throw Error(CE_E_HANDLE, "the metas of the join options were moved from");
            }
        }
        if (options.fetch.has_value()) {
            fetch = detail::c_fetch_options(*options.fetch);
            c.fetch = &fetch;
        }
        c.include = include.empty() ? nullptr : include.data();
        c.include_count = include.size();
        c.exclude = exclude.empty() ? nullptr : exclude.data();
        c.exclude_count = exclude.size();
        c.tensors = tensors.empty() ? nullptr : tensors.data();
        c.tensor_count = tensors.size();
        c.directory = detail::c_string(options.directory);
        if (options.on_bucket) {
            callback = std::make_unique<Join::Callback>();
            callback->on_bucket = options.on_bucket;
            c.on_bucket = &Join::consume;
            c.user = callback.get();
        }
        c.bucket_bytes = options.bucket_bytes;
        c.timeout_ms = detail::milliseconds(options.timeout);
        c.stall_timeout_ms = detail::milliseconds(options.stall_timeout);
        c.destination = static_cast<std::uint32_t>(options.destination);
        c.verify = static_cast<std::uint32_t>(options.verify);
        c.transport = static_cast<std::uint32_t>(options.transport);
        c.lanes = options.lanes;
        c.weights_only = options.weights_only ? 1U : 0U;
        c.copy = options.copy ? 1U : 0U;
        c.attach_files = options.attach_files ? 1U : 0U;
        c.replica_urls = replicas.empty() ? nullptr : replicas.data();
        c.replica_count = replicas.size();
        c.earlier_checkpoint = detail::c_string(options.earlier_checkpoint);
        if (options.retry_timeout.has_value()) {
            std::uint64_t retry = detail::milliseconds(*options.retry_timeout);
            c.retry_timeout_ms = retry == 0 ? CE_NEVER : retry;
        }
        c.replace = options.replace ? 1U : 0U;
        c.relay = options.relay ? 1U : 0U;

        ce_join *made = nullptr;
        detail::check(CHECKPOINT_ENGINE_CALL(ce_join_start)(handle_.get(), &c, &made));
        return Join(made, std::move(callback));
    }

    ce_server *get() const noexcept { return handle_.get(); }
    ce_server *release() noexcept { return handle_.release(); }

private:
    void hold_files(const std::string &name, const std::vector<std::string> &paths, bool replace, SharedPool pool, const Cancel *cancel) const {
        std::vector<const char *> pointers = detail::c_strings(paths);
        ce_register_options c{};
        c.struct_size = sizeof c;
        c.replace = replace ? 1U : 0U;
        c.shared_pool = static_cast<std::uint32_t>(pool);
        detail::check(CHECKPOINT_ENGINE_CALL(ce_server_register_files_with)(handle_.get(), detail::c_name(name), pointers.data(), pointers.size(), &c,
                                                                             cancel == nullptr ? nullptr : cancel->get()));
    }

    detail::Handle<ce_server> handle_;
};

} // namespace checkpoint_engine

#if defined(__cpp_lib_ranges)
/* A View's iterators outlive it, as a span's do. */
template <class T> inline constexpr bool std::ranges::enable_borrowed_range<checkpoint_engine::View<T>> = true;
template <class T> inline constexpr bool std::ranges::enable_view<checkpoint_engine::View<T>> = true;
#endif

#endif
