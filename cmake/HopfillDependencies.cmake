# Libraries from the distribution, found once for all rooms. Static archives where the distribution has them: the binaries travel to GPU machines
# that have nothing installed.
#   fmt::fmt-header-only  CLI11::CLI11  nlohmann_json::nlohmann_json  Threads::Threads
#   Boost::context  hwy::hwy  hopfill::zstd  OpenSSL::Crypto
set(THREADS_PREFER_PTHREAD_FLAG ON)
find_package(Threads REQUIRED)
find_package(fmt REQUIRED)
find_package(nlohmann_json REQUIRED)

set(Boost_USE_STATIC_LIBS ON)
find_package(Boost 1.74 REQUIRED COMPONENTS context)

find_package(hwy REQUIRED)

find_path(HOPFILL_ZSTD_INCLUDE zstd.h REQUIRED)
find_library(HOPFILL_ZSTD_LIBRARY NAMES libzstd.a zstd REQUIRED)
add_library(hopfill_zstd INTERFACE)
target_include_directories(hopfill_zstd SYSTEM INTERFACE ${HOPFILL_ZSTD_INCLUDE})
target_link_libraries(hopfill_zstd INTERFACE ${HOPFILL_ZSTD_LIBRARY})
add_library(hopfill::zstd ALIAS hopfill_zstd)

set(OPENSSL_USE_STATIC_LIBS ON)
find_package(OpenSSL REQUIRED COMPONENTS Crypto)

if(HOPFILL_BUILD_CLI)
    find_package(CLI11 REQUIRED)
endif()
if(HOPFILL_BUILD_TESTS)
    find_package(GTest REQUIRED)
endif()
